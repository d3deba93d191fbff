//! The store's promises, which every engine must keep. Each is a function that takes a new, empty
//! database, and `on_every_engine!` makes it a test of each engine. The faults that only one engine
//! can have are tested in a module of their own, such as `sqlite_faults`.

/// Makes each promise a test of each engine. The compiler warns of a promise that is left out.
macro_rules! on_every_engine {
    ($($promise:ident,)+) => {
        on_engine! { sqlite, Sqlite, $($promise,)+ }
        #[cfg(feature = "postgres")]
        on_engine! { postgres, Postgres, $($promise,)+ }
    };
}

macro_rules! on_engine {
    ($module:ident, $engine:ident, $($promise:ident,)+) => {
        mod $module {
            use crate::database::{Engine, TestDatabase};

            $(
                #[tokio::test]
                async fn $promise() {
                    super::$promise(TestDatabase::fresh(Engine::$engine).await).await;
                }
            )+
        }
    };
}

mod accept;
mod audit;
mod bodies;
mod bulk;
mod cancel;
mod claim;
mod clock;
mod erase;
mod fair;
mod find;
mod handlers;
mod idempotency;
mod interleavings;
mod lease;
mod list;
mod load;
mod look;
mod open;
mod overview;
mod pause;
mod poison;
mod progress;
mod record;
mod redelivery;
mod repeat;
mod retention;
mod settle;
mod stats;
mod waiting;
mod write_queue;
