//! The object store of end-to-end tests: `scadles-object-store FOLDER BUCKET` serves the folder with that bucket on port
//! 9000 of all addresses, to who has the keys of the variables `ACCESS_KEY_ID` and `SECRET_ACCESS_KEY`.

use std::{env, error::Error, fs, path::PathBuf, time::Duration};

use tokio::net::TcpListener;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = env::args().skip(1);
    let (Some(folder), Some(bucket)) = (arguments.next(), arguments.next()) else {
        return Err("usage: scadles-object-store FOLDER BUCKET".into());
    };
    let folder = PathBuf::from(folder);
    fs::create_dir_all(folder.join(bucket))?;
    let keys = (env::var("ACCESS_KEY_ID")?, env::var("SECRET_ACCESS_KEY")?);
    let listener = TcpListener::bind("0.0.0.0:9000").await?;
    scadles_testing::object_store::serve(&folder, (&keys.0, &keys.1), &listener, Duration::ZERO).await?;
    Ok(())
}
