//! `sampler`: a sampling profiler for Linux that works from user space alone.
//!
//! ARCHITECTURE.md follows one sample from the timer to the flame graph.
#![forbid(unsafe_code)]

pub mod cli;
pub mod demo;
pub mod doctor;
pub mod export;
pub mod profile;
pub mod record;
pub mod recording;
pub mod report;
pub mod serve;
pub mod symbols;
pub mod top;
