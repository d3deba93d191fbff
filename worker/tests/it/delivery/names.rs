//! A scripted resolver.

use std::{
    collections::VecDeque,
    io,
    net::IpAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use futures_util::{FutureExt, future::BoxFuture};
use storm_worker::delivery::Resolve;

/// Returns the scripted results in order, for any name, and counts the look-ups.
pub(crate) struct Names {
    answers: Mutex<VecDeque<Vec<IpAddr>>>,
    asked: AtomicUsize,
}

impl Names {
    /// Returns `answers` in order, then repeats the last one.
    pub(crate) fn in_order<const N: usize>(answers: [&[&str]; N]) -> Arc<Self> {
        let parse = |answer: &[&str]| answer.iter().map(|text| text.parse().unwrap()).collect();
        Arc::new(Self {
            answers: Mutex::new(answers.into_iter().map(parse).collect()),
            asked: AtomicUsize::new(0),
        })
    }

    /// Returns `answer` for every look-up.
    pub(crate) fn always(answer: &[&str]) -> Arc<Self> {
        Self::in_order([answer])
    }

    /// Fails every look-up.
    pub(crate) fn none() -> Arc<Self> {
        Self::in_order([])
    }

    pub(crate) fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

impl Resolve for Names {
    fn resolve(&self, _: &str) -> BoxFuture<'static, io::Result<Vec<IpAddr>>> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        let mut answers = self.answers.lock().unwrap();
        let answer = if answers.len() > 1 {
            answers.pop_front()
        } else {
            answers.front().cloned()
        };
        let answer = answer.ok_or_else(|| io::Error::other("no such name"));
        std::future::ready(answer).boxed()
    }
}

/// A name server that never answers.
pub(crate) struct SilentNames;

impl Resolve for SilentNames {
    fn resolve(&self, _: &str) -> BoxFuture<'static, io::Result<Vec<IpAddr>>> {
        std::future::pending().boxed()
    }
}
