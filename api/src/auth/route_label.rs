//! The metric label of a path. Clients choose the paths, so the set of labels is fixed: a label for
//! each path would let a client grow the metrics without bound.

/// The label of a route, chosen by the first segment of the path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RouteLabel {
    Async,
    Sync,
    Requests,
    Handlers,
    Healthz,
    Livez,
    Readyz,
    Metrics,
    Admin,
    Overview,
    /// The live page, which is at `/`, the description of the API, and their files.
    Ui,
    Other,
}

impl RouteLabel {
    pub(super) fn of(path: &str) -> Self {
        match path.split('/').nth(1) {
            Some("async") => Self::Async,
            Some("sync") => Self::Sync,
            Some("requests") => Self::Requests,
            Some("handlers") => Self::Handlers,
            Some("healthz") => Self::Healthz,
            Some("livez") => Self::Livez,
            Some("readyz") => Self::Readyz,
            Some("metrics") => Self::Metrics,
            Some("admin") => Self::Admin,
            Some("overview") => Self::Overview,
            Some("ui" | "docs" | "openapi.json") => Self::Ui,
            Some("") if path == "/" => Self::Ui,
            _ => Self::Other,
        }
    }

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Async => "async",
            Self::Sync => "sync",
            Self::Requests => "requests",
            Self::Handlers => "handlers",
            Self::Healthz => "healthz",
            Self::Livez => "livez",
            Self::Readyz => "readyz",
            Self::Metrics => "metrics",
            Self::Admin => "admin",
            Self::Overview => "overview",
            Self::Ui => "ui",
            Self::Other => "other",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::RouteLabel;

    #[test]
    fn every_path_has_one_of_a_fixed_set_of_labels() {
        for (path, name) in [
            ("/async", "async"),
            ("/async/thumbnails", "async"),
            ("/handlers", "handlers"),
            ("/sync/", "sync"),
            ("/requests/0193b7a2-5d3c-7e21-9f0a-3c5b8e6d1f42", "requests"),
            ("/requests/1/redeliver", "requests"),
            ("/healthz", "healthz"),
            ("/livez", "livez"),
            ("/readyz", "readyz"),
            ("/metrics", "metrics"),
            ("/admin/pause", "admin"),
            ("/overview", "overview"),
            ("/", "ui"),
            ("/ui/page.css", "ui"),
            ("/docs", "ui"),
            ("/openapi.json", "ui"),
            ("", "other"),
            ("*", "other"),
            ("/Async", "other"),
            ("//async", "other"),
            ("/async%2f", "other"),
        ] {
            assert_eq!(RouteLabel::of(path).name(), name, "{path}");
        }
    }
}
