use std::{sync::Arc, time::Duration};

use tokio::time::{Instant, advance};

use super::{Change, ForeignWatch, News, PATIENCE, SILENCE, Seen};
use crate::{
    models::RequestId,
    services::queue::{
        entry::{Entry, Notified, Sender},
        status::QueueStatus,
    },
};

const NOTHING: News = News {
    own: false,
    foreign: false,
    new_jobs: false,
};
const FOREIGN: News = News {
    foreign: true,
    ..NOTHING
};
const OWN: News = News {
    own: true,
    ..NOTHING
};

fn own() -> Entry {
    Entry {
        stream_id: "1-1".into(),
        notified: Notified {
            jobs: vec![RequestId::generate()],
            ..Notified::default()
        },
        sender: Sender::Own,
    }
}

fn foreign() -> Entry {
    Entry {
        stream_id: "1-1".into(),
        notified: Notified::default(),
        sender: Sender::Foreign,
    }
}

#[tokio::test(start_paused = true)]
async fn a_worker_whose_api_moves_to_another_database_reports_it_until_own_notifications_come() {
    let status = Arc::new(QueueStatus::new());
    let mut watch = ForeignWatch::new(Arc::clone(&status));
    for _ in 0..2 {
        watch.note(&[own(), foreign()]);
        assert!(!status.reads_only_foreign());
        for minute in 0..30 {
            watch.note(&[foreign()]);
            watch.note(&[]);
            assert_eq!(status.reads_only_foreign(), minute >= 10, "{minute}");
            advance(Duration::from_mins(1)).await;
        }
    }
}

#[test]
fn the_end_of_own_notifications_is_told_once_and_own_ones_end_it() {
    let (start, mut seen) = (Instant::now(), Seen::Nothing);
    let mut note = |news, after| seen.note(news, start + after);
    assert_eq!(note(OWN, Duration::ZERO), None);
    assert_eq!(note(FOREIGN, PATIENCE), None);
    assert_eq!(note(FOREIGN, SILENCE), None, "not ten minutes yet");
    assert_eq!(note(FOREIGN, SILENCE * 2), Some(Change::NoMoreOwn));
    let new_jobs = News {
        new_jobs: true,
        ..FOREIGN
    };
    for (later, news) in [(3, FOREIGN), (4, NOTHING), (5, new_jobs), (6, FOREIGN)] {
        assert_eq!(note(news, SILENCE * later), None, "told already");
    }
    assert_eq!(note(OWN, SILENCE * 7), Some(Change::OwnToo));
    assert_eq!(note(FOREIGN, SILENCE * 8), None);
    assert_eq!(note(FOREIGN, SILENCE * 9), Some(Change::NoMoreOwn));
}

#[tokio::test(start_paused = true)]
async fn new_jobs_in_the_table_show_that_only_their_notifications_are_lost() {
    let status = Arc::new(QueueStatus::new());
    let mut watch = ForeignWatch::new(Arc::clone(&status));
    watch.note(&[own()]);
    for _ in 0..60 {
        watch.note(&[foreign()]);
        status.note_new_jobs();
        advance(Duration::from_mins(1)).await;
        watch.note(&[]);
        assert!(!status.reads_only_foreign());
    }
    // The API moves; nothing new is in the table from here on.
    for _ in 0..12 {
        watch.note(&[foreign()]);
        advance(Duration::from_mins(1)).await;
    }
    assert!(status.reads_only_foreign());
}

#[test]
fn an_hour_without_jobs_is_no_alarm() {
    let (start, mut seen) = (Instant::now(), Seen::Nothing);
    let mut note = |news, after| seen.note(news, start + after);
    assert_eq!(note(OWN, Duration::ZERO), None);
    assert_eq!(note(NOTHING, SILENCE * 6), None);
    assert_eq!(note(FOREIGN, SILENCE * 6), None, "one of a neighbour");
    assert_eq!(note(NOTHING, SILENCE * 12), None, "and no other");
}

#[test]
fn only_foreign_notifications_are_told_once_and_own_ones_end_it() {
    let (start, mut seen) = (Instant::now(), Seen::Nothing);
    let mut note = |news, after| seen.note(news, start + after);
    assert_eq!(note(NOTHING, Duration::ZERO), None, "nothing was read");
    assert_eq!(note(FOREIGN, PATIENCE), None, "own ones may follow");
    assert_eq!(note(NOTHING, PATIENCE * 2), Some(Change::OnlyForeign));
    assert_eq!(note(FOREIGN, PATIENCE * 3), None, "told already");
    let both = News {
        own: true,
        ..FOREIGN
    };
    assert_eq!(note(both, PATIENCE * 4), Some(Change::OwnToo));
    for later in 5..9 {
        assert_eq!(note(FOREIGN, PATIENCE * later), None);
    }
}

#[test]
fn a_neighbour_on_the_same_redis_is_no_alarm_if_own_notifications_come_too() {
    let (start, mut seen) = (Instant::now(), Seen::Nothing);
    let mut note = |news, after| seen.note(news, start + after);
    assert_eq!(note(FOREIGN, Duration::ZERO), None);
    assert_eq!(note(OWN, PATIENCE / 2), None);
    for minute in 1..60 {
        let after = Duration::from_mins(minute);
        assert_eq!(note(FOREIGN, after), None);
        if minute % 9 == 0 {
            assert_eq!(note(OWN, after), None);
        }
    }
}
