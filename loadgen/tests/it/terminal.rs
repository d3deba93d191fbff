//! Output in terminals of several widths, in pipes, and to readers that are gone.

use std::{
    fs::File,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::TcpStream,
    process::{Command, Stdio},
};

use rustix::{
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
    termios::{Winsize, tcsetwinsize},
};
use storm_loadgen::layout::{Layout, MIN_WIDTH};

use crate::{
    binary::{TempFile, output, program},
    fake_api::{Act, FakeApi},
    interrupts::{end, signal},
    screen::Screen,
};

/// Every request and job of a demo at this API fails in some way.
fn every_failure(name: &str) -> Act {
    let number = crate::fake_api::number(name);
    match (name.starts_with("Sync"), number) {
        (true, 2) => Act::AnotherStatus,
        (true, 4) | (false, 1) => Act::Garbage,
        (true, 1) | (false, 2) => Act::Refuses,
        (true | false, 3) => Act::WrongChecksum,
        (false, 4) => Act::Fails,
        _ => Act::CallsBackTwice,
    }
}

fn demo(api: &FakeApi) -> Command {
    program(&format!(
        "demo --api {} --listen localhost:0 --requests 6 --records 1 --patience 100ms",
        api.url()
    ))
}

fn storm(api: &FakeApi) -> Command {
    program(&format!(
        "storm --mode async --api {} --listen localhost:0 --rate 100 --duration 60ms --records 1 \
         --patience 100ms",
        api.url()
    ))
}

fn assert_fits(text: &str, width: u16) {
    for line in text.lines() {
        assert!(
            line.chars().count() <= width.into(),
            "{width}: {line}\n{text}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_line_of_a_result_is_wider_than_the_terminal() {
    let api = FakeApi::start(|name| match name {
        "Storm_Test_0001" => Act::Right,
        name => every_failure(name),
    })
    .await;
    for width in [60, 80, 200] {
        for mut command in [demo(&api), storm(&api)] {
            command.env("COLUMNS", width.to_string());
            let output = output(command).await;
            let text = String::from_utf8(output.stdout).unwrap();
            assert_eq!(output.status.code(), Some(1), "{text}");
            assert!(text.starts_with("failed: "), "{text}");
            assert_fits(&text, width);
            // A table's row is one line: its name and its last number stand in it.
            let row = text.lines().find(|line| line.starts_with("callback "));
            assert!(row.is_some_and(|row| row.ends_with('s')), "{text}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_url_is_shortened_and_what_the_api_says_is_wrapped() {
    let api = FakeApi::start(|_| Act::AnotherStatus).await;
    let mut command = demo(&api);
    command.args([
        "--callback-url",
        &format!("http://localhost:1/{}", "c".repeat(1900)),
    ]);
    let text = String::from_utf8(output(command).await.stdout).unwrap();
    assert_fits(&text, 80);
    assert!(text.contains("answered 418 I'm a teapot"), "{text}");
}

#[test]
fn the_help_of_every_command_fits() {
    for width in [60, 80, 200] {
        for line in [
            "--help",
            "demo --help",
            "storm --help",
            "receive --help",
            "chaos --help",
        ] {
            let help = program(line)
                .env("COLUMNS", width.to_string())
                .output()
                .unwrap();
            assert_eq!(help.status.code(), Some(0));
            assert_fits(&String::from_utf8(help.stdout).unwrap(), width);
        }
    }
}

/// Runs a command in a terminal of this width, and returns what it sends there.
async fn in_terminal(mut command: Command, width: u16) -> String {
    let controller = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&controller).unwrap();
    unlockpt(&controller).unwrap();
    let name = ptsname(&controller, Vec::new()).unwrap();
    let mut options = File::options();
    std::os::unix::fs::OpenOptionsExt::custom_flags(
        &mut options,
        rustix::fs::OFlags::NOCTTY.bits().cast_signed(),
    );
    let open = options.read(true).write(true).open(name.to_str().unwrap());
    let terminal = open.unwrap();
    let size = Winsize {
        ws_row: 24,
        ws_col: width,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    tcsetwinsize(&terminal, size).unwrap();
    command
        .stdout(Stdio::from(terminal.try_clone().unwrap()))
        .stderr(Stdio::from(terminal));
    let mut child = command.spawn().unwrap();
    // It holds the terminal, which is at its end only when nobody does.
    drop(command);
    tokio::task::spawn_blocking(move || {
        let mut text = Vec::new();
        // The end of a terminal is an error (EIO) on Linux.
        let _ = File::from(controller).read_to_end(&mut text);
        child.wait().unwrap();
        String::from_utf8(text).unwrap().replace("\r\n", "\n")
    })
    .await
    .unwrap()
}

/// The result, without the progress that was drawn and cleared before it.
fn result(text: &str) -> &str {
    let begin = ["passed:", "failed:"]
        .iter()
        .find_map(|word| text.find(word));
    &text[begin.unwrap_or_else(|| panic!("no result: {text:?}"))..]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_terminal_gives_the_width_and_gets_colours_unless_they_are_refused() {
    let api = FakeApi::start(|_| Act::Right).await;
    for width in [60, 80, 132] {
        for (variable, value, coloured) in [
            ("TERM", "xterm", true),
            ("NO_COLOR", "1", false),
            ("TERM", "dumb", false),
        ] {
            let mut command = demo(&api);
            command.env_remove("COLUMNS").env_remove("NO_COLOR");
            command.env("TERM", "xterm").env(variable, value);
            let text = in_terminal(command, width).await;
            assert_fits(&result(&text).replace("\x1b[0m", ""), width);
            assert_eq!(
                text.contains("\x1b[1;32mpassed:\x1b[0m"),
                coloured,
                "{text:?}"
            );
            if value == "dumb" {
                assert!(!text.contains('\x1b'), "{text:?}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_storm_is_shown_while_it_runs_and_leaves_no_trace_of_that() {
    let api = FakeApi::start(|_| Act::Right).await;
    for (width, no_color) in [(40, "1"), (60, ""), (132, "1")] {
        let mut command = program(&format!(
            "storm --mode async --api {} --listen localhost:0 --rate 100 --duration 700ms \
             --records 1",
            api.url()
        ));
        command.env_remove("COLUMNS");
        command.env("TERM", "xterm").env("NO_COLOR", no_color);
        let text = in_terminal(command, width).await;
        let mut screen = Screen::new(width);
        let mut blocks = 0;
        screen.show(&text, |lines| {
            // Nothing else is on the screen, and no line of it has wrapped.
            let Some(bar) = lines.iter().position(|line| line.starts_with("load ")) else {
                return;
            };
            blocks += 1;
            let names: Vec<_> = lines[bar - 1..]
                .iter()
                .map(|line| line.split(' ').next().unwrap())
                .collect();
            assert!(["requests", "jobs"].contains(&names[0]), "{lines:?}");
            assert_eq!(
                names[1..],
                ["load", "answers", "jobs", "errors"],
                "{lines:?}"
            );
            assert_eq!(bar, 1, "{lines:?}");
            assert_eq!(lines[4], "errors      none");
        });
        assert!(blocks > 0, "{text:?}");
        let left = screen.text();
        assert!(
            left[0].starts_with("passed: 70 of 70 requests ok"),
            "{left:?}"
        );
        assert!(
            !left.iter().any(|line| line.contains("in flight")),
            "{left:?}"
        );
        assert_eq!(text.contains("\x1b[1;32m"), no_color.is_empty(), "{text:?}");
        assert_eq!(text.contains("\x1b[0m"), no_color.is_empty(), "{text:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_terminal_a_storm_tells_what_it_does_in_whole_lines() {
    let api = FakeApi::start(|_| Act::Right).await;
    for (mode, jobs) in [("sync", false), ("async", true)] {
        let line = format!(
            "storm --mode {mode} --api {} --listen localhost:0 --rate 20 --duration 1h --records 1",
            api.url()
        );
        let mut child = program(&line).spawn().unwrap();
        let stderr = child.stderr.take().unwrap();
        let told = tokio::task::spawn_blocking(|| {
            let mut line = String::new();
            BufReader::new(stderr).read_line(&mut line).unwrap();
            line
        });
        let told = told.await.unwrap();
        signal(&child, "-INT");
        let output = end(child).await;
        let begins = told
            .strip_prefix("storm ")
            .and_then(|it| it.split_once("s: "));
        let (seconds, rest) = begins.unwrap_or_else(|| panic!("{told:?}"));
        assert!(seconds.parse::<u64>().is_ok_and(|it| it >= 5), "{told:?}");
        for part in [
            "/s due, ",
            "/s sent, ",
            " in flight, ",
            "/s ok, p50 ",
            ", p99 ",
        ] {
            assert!(rest.contains(part), "{part}: {told:?}");
        }
        assert_eq!(rest.contains("; jobs "), jobs, "{told:?}");
        assert!(
            rest.ends_with("; errors none\n") && !told.contains('\x1b'),
            "{told:?}"
        );
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(text.starts_with("interrupted: "), "{text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pipe_gets_no_escape_codes_and_80_columns() {
    let api = FakeApi::start(every_failure).await;
    let mut command = demo(&api);
    command.env_remove("COLUMNS").env_remove("NO_COLOR");
    command.env("TERM", "xterm");
    let output = output(command).await;
    assert!(!output.stderr.contains(&0x1b) && !output.stdout.contains(&0x1b));
    assert_fits(&String::from_utf8(output.stdout).unwrap(), 80);
}

#[test]
fn a_narrow_terminal_gets_the_layout_for_60_columns() {
    let layout = Layout {
        width: MIN_WIDTH,
        colour: false,
    };
    let text = layout.apply(&"word ".repeat(40));
    assert_fits(&text, 60);
}

#[test]
fn receive_ends_quietly_when_its_reader_is_gone() {
    let mut child = program("receive --listen 127.0.0.1:0").spawn().unwrap();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    stdout.read_line(&mut line).unwrap();
    drop(stdout); // as `head -1` does
    let mut stream = TcpStream::connect(line.split('/').nth(2).unwrap()).unwrap();
    let request = "POST / HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-length: 2\r\n\r\n{}";
    stream.write_all(request.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(String::from_utf8(output.stderr).unwrap(), "");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_is_gone_changes_neither_the_exit_status_nor_the_files() {
    let api = FakeApi::start(|_| Act::Right).await;
    let json = TempFile::new("unread.json");
    let mut command = demo(&api);
    command.args(["--json", json.path()]);
    let mut child = command.spawn().unwrap();
    drop(child.stdout.take());
    let output = tokio::task::spawn_blocking(|| child.wait_with_output().unwrap());
    let output = output.await.unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert!(output.stderr.is_empty());
    assert!(json.read().contains("\"passed\": true"));

    for line in ["--help", "check nothing", "demo --json /"] {
        let mut child = program(line).spawn().unwrap();
        drop((child.stdout.take(), child.stderr.take()));
        let status = child.wait().unwrap().code();
        assert!(
            status.is_some_and(|status| status < 2),
            "{line}: {status:?}"
        );
    }
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn a_result_that_can_not_be_printed_is_still_in_its_file() {
    let api = FakeApi::start(|_| Act::Right).await;
    let json = TempFile::new("unprinted.json");
    let mut command = demo(&api);
    command.args(["--json", json.path()]);
    command.stdout(File::options().write(true).open("/dev/full").unwrap());
    let output = output_of(command).await;
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(error.contains("can't write to standard output"), "{error}");
    assert_eq!(error.lines().count(), 1, "{error}");
    assert!(json.read().contains("\"passed\": true"));
}

/// Unlike `Command::output`, this keeps the standard output that was set.
#[cfg(target_os = "linux")]
async fn output_of(mut command: Command) -> std::process::Output {
    let child = command.spawn().unwrap();
    let output = tokio::task::spawn_blocking(|| child.wait_with_output().unwrap());
    output.await.unwrap()
}
