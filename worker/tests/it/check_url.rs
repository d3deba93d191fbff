//! `storm-worker check-url`: its verdicts are those of the connector.

use std::{
    io::{self, Read, Write},
    net::{IpAddr, Ipv4Addr},
    process::{Command, Output, Stdio},
    sync::{Arc, Mutex, mpsc},
    time::Duration,
};

use storm_shared::services::ssrf::Policy;
use storm_worker::{
    check_url::{Checker, judge_lines},
    delivery::{SsrfFilter, SystemResolver},
};

/// Longer than any look-up in these tests.
const PATIENT: Duration = Duration::from_mins(1);
/// For look-ups that must time out.
const HASTY: Duration = Duration::from_millis(100);

fn check(arguments: &[&str], settings: &[(&str, &str)], input: &[u8]) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_storm-worker"))
        .arg("check-url")
        .args(arguments)
        .env_clear()
        .envs(settings.iter().copied())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let _ = stdin.write_all(input); // fails if the process reads no input and has exited
    drop(stdin);
    child.wait_with_output().unwrap()
}

fn text(bytes: &[u8]) -> &str {
    str::from_utf8(bytes).unwrap()
}

fn checker(
    timeout: Duration,
    look_up: impl Fn(&str) -> io::Result<Vec<IpAddr>> + Send + Sync + 'static,
) -> Checker {
    let filter = SsrfFilter {
        policy: Policy::default(),
        resolver: Arc::new(SystemResolver::with(look_up)),
    };
    Checker::new(filter, timeout)
}

async fn verdicts(checker: &Checker, lines: impl Into<Vec<u8>>) -> String {
    let mut output = Vec::new();
    judge_lines(checker, io::Cursor::new(lines.into()), &mut output)
        .await
        .unwrap();
    String::from_utf8(output).unwrap()
}

#[test]
fn the_exit_status_of_one_url_is_its_verdict() {
    for (url, settings, status, verdict) in [
        ("http://1.1.1.1/", [].as_slice(), 0, "verdict      allow\n"),
        (
            "http://127.1/",
            &[],
            1,
            "deny by rule loopback: 127.0.0.1 is refused as loopback\n",
        ),
        (
            "http://127.1/",
            &[("CALLBACK_ALLOW", "127.0.0.1")],
            0,
            "verdict      allow\n",
        ),
        (
            "http://1.1.1.1/",
            &[("CALLBACK_DENY", "1.1.1.0/24")],
            1,
            "deny by rule denied: ",
        ),
        (
            "http://1.1.1.1/",
            &[("CALLBACK_PORTS", "443")],
            1,
            "deny by rule port: port 80 ",
        ),
        (
            "http://localhost/",
            &[("CALLBACK_ALLOW", "127.0.0.1")],
            1,
            "address      127.0.0.1, allowed\naddress      ::1 is refused as loopback\n",
        ),
        (
            "http://[64:ff9b::a00:1]/",
            &[("CALLBACK_NAT64", "64:ff9b::/96")],
            1,
            "64:ff9b::a00:1 (NAT64 for 10.0.0.1) is refused as private\n",
        ),
        ("ftp://1.1.1.1/", &[], 1, "deny by rule scheme: "),
        ("", &[], 1, "deny by rule malformed: "),
    ] {
        let output = check(&[url], settings, b"");
        let printed = text(&output.stdout);
        assert_eq!(
            output.status.code(),
            Some(status),
            "{url} {settings:?}: {printed}"
        );
        assert!(printed.contains(verdict), "{url} {settings:?}: {printed}");
        assert!(output.stderr.is_empty());
    }
}

#[test]
fn invalid_settings_or_arguments_exit_with_status_2() {
    for (arguments, settings) in [
        (["http://1.1.1.1/"].as_slice(), [("CALLBACK_ALLOW", "::/0")]),
        (&["-"], [("CALLBACK_NAT64", "64:ff9b::/95")]),
        (&[], [("LOG", "info")]),
        (&["http://1.1.1.1/", "http://1.1.1.1/"], [("LOG", "info")]),
    ] {
        let output = check(arguments, &settings, b"");
        assert_eq!(output.status.code(), Some(2), "{arguments:?} {settings:?}");
        assert!(output.stdout.is_empty() && !output.stderr.is_empty());
    }
}

#[test]
fn every_input_line_gets_exactly_one_verdict() {
    let long = format!("http://1.1.1.1/{}\n", "x".repeat(100_000));
    let mut input = b"http://1.1.1.1/\n\nhttp://[::1]/\r\n\xff\xfe\n\0\n".to_vec();
    input.extend(long.as_bytes());
    input.extend(
        "http://1.1.1.1/é\nhttp://u@1.1.1.1/\nhttp://1.1.1.1:25/\nhttp://1.1.1.1".as_bytes(),
    );
    let output = check(&["-"], &[], &input);
    assert_eq!(
        text(&output.stdout),
        "allow\ndeny\tmalformed\ndeny\tloopback\ndeny\tnot_utf8\ndeny\tcharacters\ndeny\ttoo_long\nallow\n\
         deny\tuserinfo\ndeny\tport\nallow\n"
    );
    assert_eq!(output.status.code(), Some(0));
    let nothing = check(&["-"], &[], b"");
    assert_eq!(
        (nothing.status.code(), text(&nothing.stdout)),
        (Some(0), "")
    );
}

#[test]
fn the_help_lists_every_rule() {
    let help = check(&["--help"], &[], b"");
    let help: Vec<_> = text(&help.stdout)
        .split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'))
        .collect();
    let rules = [
        "not_utf8",
        "too_long",
        "unresolved",
        "metadata",
        "denied",
        "port",
        "userinfo",
        "port_zero",
    ];
    for rule in rules {
        assert!(help.contains(&rule), "{rule}");
    }
}

#[tokio::test]
async fn verdicts_keep_the_order_of_the_lines() {
    // The look-up of each name waits for that of the next name; the last does not wait.
    let ended: Arc<(Mutex<Vec<usize>>, std::sync::Condvar)> = Arc::default();
    let checker = checker(PATIENT, move |name| {
        let number: usize = name
            .split('.')
            .next()
            .unwrap()
            .trim_start_matches('n')
            .parse()
            .unwrap();
        let (order, changed) = &*ended;
        let mut order = changed
            .wait_while(order.lock().unwrap(), |order| {
                number < 9 && !order.contains(&(number + 1))
            })
            .unwrap();
        order.push(number);
        changed.notify_all();
        match number % 3 {
            0 => Ok(vec!["1.1.1.1".parse().unwrap()]),
            1 => Ok(vec![
                "1.1.1.1".parse().unwrap(),
                "10.0.0.1".parse().unwrap(),
            ]),
            _ => Ok(Vec::new()),
        }
    });
    let names: Vec<_> = (0..10)
        .map(|number| format!("http://n{number}.example/\n"))
        .collect();
    let names = names.concat();
    let three = "allow\ndeny\tprivate\ndeny\tunresolved\n";
    assert_eq!(
        verdicts(&checker, names).await,
        format!("{three}{three}{three}allow\n")
    );
}

#[tokio::test]
async fn a_look_up_timeout_denies_its_line_and_delays_no_other() {
    let (end, ended) = mpsc::channel::<()>();
    let ended = Mutex::new(ended);
    let checker = checker(HASTY, move |name| {
        if name == "hangs.example" {
            let _ = ended.lock().unwrap().recv(); // fails once the test is over
        }
        Ok(vec!["1.1.1.1".parse().unwrap()])
    });
    let lines =
        "http://hangs.example/\nhttp://quick.example/\nhttp://hangs.example/\nhttp://1.1.1.1/\n";
    let expected = "deny\tunresolved\nallow\ndeny\tunresolved\nallow\n";
    assert_eq!(verdicts(&checker, lines).await, expected);
    drop(end);
}

#[tokio::test]
async fn each_of_a_hundred_thousand_lines_gets_its_verdict() {
    let checker = checker(PATIENT, |name| panic!("unexpected look-up of {name}"));
    let mut lines = String::new();
    let mut expected = String::new();
    for number in 0..100_000_u32 {
        let private = number % 7 == 0;
        let net = if private { 10 } else { 11 };
        let [_, b, c, d] = number.to_be_bytes();
        lines += "https://";
        lines += &Ipv4Addr::new(net, b, c, d).to_string();
        lines += "/hook\n";
        expected.push_str(if private {
            "deny\tprivate\n"
        } else {
            "allow\n"
        });
    }
    assert!(verdicts(&checker, lines).await == expected);
}

/// An input whose next line is available once it is sent on the channel.
struct Slow(mpsc::Receiver<&'static str>);

impl Read for Slow {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0
            .recv()
            .map_or(Ok(0), |line| line.as_bytes().read(buffer))
    }
}

/// An output that sends the next input line once the verdicts on all earlier lines are flushed.
struct Asking {
    lines: Vec<&'static str>,
    input: Option<mpsc::Sender<&'static str>>,
    flushed: Vec<u8>,
}

impl Write for Asking {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.flushed.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        let verdicts = text(&self.flushed).lines().count();
        match self.lines.get(verdicts) {
            Some(line) => self.input.as_ref().unwrap().send(line).unwrap(),
            None => self.input = None, // the end of the input
        }
        Ok(())
    }
}

#[tokio::test]
async fn a_known_verdict_is_flushed_without_waiting_for_more_input() {
    let (input, lines) = mpsc::channel();
    let mut output = Asking {
        lines: vec![
            "http://1.1.1.1/\n",
            "http://10.0.0.1/\n",
            "http://1.1.1.1/\n",
        ],
        input: Some(input),
        flushed: Vec::new(),
    };
    let checker = checker(PATIENT, |name| panic!("unexpected look-up of {name}"));
    judge_lines(&checker, Slow(lines), &mut output)
        .await
        .unwrap();
    assert_eq!(text(&output.flushed), "allow\ndeny\tprivate\nallow\n");
}
