//! `storm-api --help`, saved as a settings file.

use std::{
    fs::{self, File},
    process::Stdio,
};

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

#[test]
fn help_that_can_not_be_written_is_an_error_and_a_closed_pipe_is_none() {
    let folder = TempDir::new().unwrap();
    for arguments in [
        &["--help"][..],
        &["-h"],
        &["stats", "--help"],
        &["--version"],
    ] {
        let full = File::options().write(true).open("/dev/full").unwrap();
        let run = |stdout: Stdio| {
            let mut command = program(folder.path());
            command
                .args(arguments)
                .stdout(stdout)
                .stderr(Stdio::piped());
            command.output().unwrap()
        };
        let ran = run(full.into());
        let told = String::from_utf8(ran.stderr).unwrap();
        assert_eq!(ran.status.code(), Some(1), "{arguments:?}: {told}");
        assert!(
            told.starts_with("can't write to standard output: "),
            "{told}"
        );
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let ran = run(writer.into());
        assert_eq!((ran.status.code(), ran.stderr.len()), (Some(0), 0));
    }
}
