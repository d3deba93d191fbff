//! `storm-api --help`, saved as a settings file.

use std::fs;

use tempfile::TempDir;

use crate::service::{Service, exited_with, program};

#[tokio::test]
async fn the_help_output_is_a_valid_settings_file() {
    let folder = TempDir::new().unwrap();
    let help = program(folder.path()).arg("--help").output().unwrap();
    assert_eq!(help.status.code(), Some(0));
    let text = String::from_utf8(help.stdout).unwrap();
    assert!(text.contains("# Usage: storm-api") && text.contains("api_addr = "));
    assert!(text.lines().all(|line| line.chars().count() <= 80));

    fs::write(folder.path().join("settings.toml"), text).unwrap();
    let mut command = program(folder.path());
    command.env("STORM_CONFIG", "settings.toml");
    let service = Service::spawn(command, folder.path()).await;
    service.is_open().await;
    assert!(exited_with(service.stop().await, 0));
}
