//! Fewer points than a long run has steps, without hiding what stands out.

/// One point of a series: some neighbouring values, put together.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Point {
    /// Mean place of the values.
    pub x: f64,
    /// The least of the values.
    pub low: f64,
    /// Their mean.
    pub mean: f64,
    /// The greatest.
    pub high: f64,
}

/// Points from left to right.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Series {
    /// The points.
    pub points: Vec<Point>,
}

impl Series {
    /// Single values, each a point of its own.
    pub fn exact(values: impl IntoIterator<Item = (f64, f64)>) -> Self {
        let mut thinner = Thinner::new(0, usize::MAX);
        for (x, y) in values {
            thinner.add(x, y);
        }
        thinner.finish()
    }

    /// Whether there is nothing to draw.
    pub fn is_empty(&self) -> bool {
        self.points.is_empty()
    }

    /// Whether a point stands for values that differ.
    pub fn has_band(&self) -> bool {
        self.points.iter().any(|point| point.low < point.high)
    }
}

/// The rule *least, mean and greatest per bucket*: a bucket takes the same number of neighbouring values (the last one
/// perhaps fewer), and of each stay its least, its mean and its greatest. So no peak disappears, however long the run was.
#[derive(Clone, Debug)]
pub struct Thinner {
    values_per_bucket: u64,
    bucket: Bucket,
    points: Vec<Point>,
}

/// The bucket that is being filled.
#[derive(Clone, Copy, Debug)]
struct Bucket {
    offered: u64,
    taken: u64,
    x_sum: f64,
    y_sum: f64,
    low: f64,
    high: f64,
}

const EMPTY: Bucket =
    Bucket { offered: 0, taken: 0, x_sum: 0.0, y_sum: 0.0, low: f64::INFINITY, high: f64::NEG_INFINITY };

impl Thinner {
    /// For about `values` values; at most `buckets` points come out of so many.
    pub fn new(values: u64, buckets: usize) -> Self {
        let values_per_bucket = values.div_ceil(buckets.max(1) as u64).max(1);
        Self { values_per_bucket, bucket: EMPTY, points: Vec::new() }
    }

    /// The next value. One that is no number has its place in the bucket, but no part in the point.
    pub fn add(&mut self, x: f64, y: f64) {
        let bucket = &mut self.bucket;
        bucket.offered += 1;
        if x.is_finite() && y.is_finite() {
            bucket.taken += 1;
            bucket.x_sum += x;
            bucket.y_sum += y;
            bucket.low = bucket.low.min(y);
            bucket.high = bucket.high.max(y);
        }
        if bucket.offered >= self.values_per_bucket {
            self.close();
        }
    }

    fn close(&mut self) {
        let bucket = std::mem::replace(&mut self.bucket, EMPTY);
        if bucket.taken > 0 {
            let taken = bucket.taken as f64;
            // A sum of many may round beyond what it is the mean of.
            let mean = (bucket.y_sum / taken).clamp(bucket.low, bucket.high);
            self.points.push(Point { x: bucket.x_sum / taken, low: bucket.low, mean, high: bucket.high });
        }
    }

    /// The points.
    pub fn finish(mut self) -> Series {
        self.close();
        Series { points: self.points }
    }
}
