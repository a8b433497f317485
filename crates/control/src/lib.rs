//! scadles-control
