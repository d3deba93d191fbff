//! Entries as they are written: one for up to [`JOBS_PER_ENTRY`] jobs that are notified at a time.

use std::{collections::HashMap, fmt::Write as _};

use redis::Pipeline;

use super::{
    Notification, Queue,
    entry::{JOBS_PER_ENTRY, field},
};
use crate::models::{ClientName, HandlerName, RequestId};

/// The jobs of one entry. They agree in everything else, so that a worker can decide by the entry.
struct Group<'a> {
    handler: &'a HandlerName,
    tenant: Option<&'a ClientName>,
    is_long: bool,
    first: RequestId,
    more: Vec<RequestId>,
}

/// The entries of the notifications, in the order of their first jobs.
fn grouped(notifications: &[(HandlerName, Notification)]) -> Vec<Group<'_>> {
    let mut groups = Vec::<Group>::new();
    // The last group of each kind.
    let mut last = HashMap::new();
    for (handler, notification) in notifications {
        let (id, tenant, is_long) = (
            notification.id,
            notification.tenant.as_ref(),
            notification.is_long,
        );
        let nth = last.entry((handler, tenant, is_long)).or_insert(usize::MAX);
        match groups.get_mut(*nth) {
            Some(group) if 1 + group.more.len() < JOBS_PER_ENTRY => group.more.push(id),
            _ => {
                *nth = groups.len();
                groups.push(Group {
                    handler,
                    tenant,
                    is_long,
                    first: id,
                    more: Vec::new(),
                });
            }
        }
    }
    groups
}

/// The commands that write the entries.
///
/// A pipeline, not MULTI: each entry is a hint of its own, and a part of them helps, too.
pub(super) fn commands(queue: &Queue, notifications: &[(HandlerName, Notification)]) -> Pipeline {
    let groups = grouped(notifications);
    let mut pipeline = Pipeline::with_capacity(groups.len());
    let mut ids = String::new();
    for group in groups {
        pipeline
            .cmd("XADD")
            .arg(&*queue.key_of(group.handler))
            // Approximate trimming: Redis drops whole nodes, which is cheaper than an exact length.
            .arg("MAXLEN")
            .arg("~")
            .arg(queue.length)
            .arg("*")
            .arg(field::ID)
            .arg(text_of(&mut ids, &[group.first]))
            .arg(field::STORE)
            .arg(&queue.store);
        if let Some(tenant) = group.tenant {
            pipeline.arg(field::TENANT).arg(tenant.as_str());
        }
        if group.is_long {
            pipeline.arg(field::LONG).arg("1");
        }
        if !group.more.is_empty() {
            pipeline
                .arg(field::MORE)
                .arg(text_of(&mut ids, &group.more));
        }
        pipeline.ignore();
    }
    pipeline
}

/// The ids, separated by spaces, in `text`.
fn text_of<'a>(text: &'a mut String, ids: &[RequestId]) -> &'a str {
    text.clear();
    for id in ids {
        if !text.is_empty() {
            text.push(' ');
        }
        let _ = write!(text, "{id}"); // a String takes everything
    }
    text
}

#[cfg(test)]
mod tests {
    use super::{Group, JOBS_PER_ENTRY, grouped};
    use crate::{
        models::{HandlerName, RequestId},
        services::queue::Notification,
    };

    fn ids(group: &Group<'_>) -> Vec<RequestId> {
        let first = std::iter::once(group.first);
        first.chain(group.more.iter().copied()).collect()
    }

    fn notified(handler: &HandlerName, tenant: &str, is_long: bool) -> (HandlerName, Notification) {
        let notification = Notification {
            id: RequestId::generate(),
            tenant: tenant.parse().ok(),
            is_long,
        };
        (handler.clone(), notification)
    }

    #[test]
    fn an_entry_has_jobs_of_one_handler_tenant_and_length_in_order() {
        let pdf = "pdf".parse().unwrap();
        let kinds = [
            notified(&HandlerName::REPORT, "", false),
            notified(&HandlerName::REPORT, "", true),
            notified(&HandlerName::REPORT, "a", false),
            notified(&pdf, "", true),
        ];
        let mut all = Vec::new();
        for _ in 0..5 {
            for (handler, kind) in &kinds {
                let id = RequestId::generate();
                all.push((handler.clone(), Notification { id, ..kind.clone() }));
            }
        }
        let groups = grouped(&all);
        assert_eq!(groups.len(), kinds.len());
        for (nth, ((handler, kind), group)) in kinds.iter().zip(&groups).enumerate() {
            let of_kind = all.iter().skip(nth).step_by(kinds.len());
            let expected: Vec<_> = of_kind.map(|(_, notification)| notification.id).collect();
            assert_eq!(ids(group), expected);
            assert_eq!(group.handler, handler);
            assert_eq!(group.tenant, kind.tenant.as_ref());
            assert_eq!(group.is_long, kind.is_long);
        }
    }

    #[test]
    fn a_full_entry_is_followed_by_another_one() {
        let all: Vec<_> = (0..=2 * JOBS_PER_ENTRY)
            .map(|_| notified(&HandlerName::REPORT, "a", false))
            .collect();
        let groups = grouped(&all);
        let sizes: Vec<_> = groups.iter().map(|group| ids(group).len()).collect();
        assert_eq!(sizes, [JOBS_PER_ENTRY, JOBS_PER_ENTRY, 1]);
        let notified: Vec<_> = groups.iter().flat_map(ids).collect();
        let expected: Vec<_> = all.iter().map(|(_, it)| it.id).collect();
        assert_eq!(notified, expected);
    }
}
