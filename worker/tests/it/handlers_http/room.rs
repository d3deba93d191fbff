//! Results wait for room in the memory budget, and no endpoint is charged for that.

use std::time::Duration;

use storm_shared::memory::{MemoryBudget, Reservation};
use storm_worker::{
    delivery::{Network, Shortage},
    handler::{Failure, Next, Output},
    handlers::http::{HttpClient, HttpHandler},
};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::{HASTY, MAX_RESULT, PATIENT, attempt, context, endpoint, handler_in, job};
use crate::delivery::{
    names::Names,
    scripted::{Receiver, read_request, write},
};

/// Room for two results.
const BUDGET: usize = 2 * MAX_RESULT;

/// A budget that is full but for half of a result, and whose overdraft is in use.
struct Full {
    memory: MemoryBudget,
    held: [Reservation; 2],
}

impl Full {
    async fn new() -> Self {
        let memory = MemoryBudget::new(BUDGET);
        let mut held = [(); 2].map(|()| memory.reservation());
        held[0].grow_patiently(BUDGET).await;
        held[1].grow_patiently(1).await; // past the limit
        drop(held[0].split(1 + MAX_RESULT / 2));
        assert_eq!(memory.reserved(), BUDGET - MAX_RESULT / 2);
        Self { memory, held }
    }

    fn handler(&self, receiver: &Receiver) -> HttpHandler {
        let client = HttpClient::new(Network::with_resolver(Names::none()), None).unwrap();
        handler_in(client, endpoint(&receiver.url()), self.memory.clone())
    }

    /// Completes when a body waits: a half of the budget is kept for it.
    async fn until_one_waits(&self) {
        while self.memory.reserve_up_to(1).is_some() {
            sleep(Duration::from_millis(1)).await;
        }
    }
}

/// Answers with so many bytes of a body of `MAX_RESULT`, and reads on.
fn answering(sent: usize) -> Receiver {
    Receiver::start(move |_, stream| {
        read_request(stream);
        let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {MAX_RESULT}\r\n");
        let body = "x".repeat(sent);
        write(stream, &format!("{head}content-type: text/x\r\n\r\n{body}"));
        if sent == MAX_RESULT {
            read_request(stream);
        }
    })
}

/// An attempt whose body waits until its deadline is over, and then has room. Its time is doubled
/// until that is enough for a head on this machine.
async fn waiting_past_its_deadline(receiver: &Receiver) -> (Result<Output, Failure>, usize) {
    let mut time = HASTY;
    loop {
        let full = Full::new().await;
        let handler = full.handler(receiver);
        let memory = full.memory.clone();
        let job = job("{}");
        let context = context(time);
        let release = async move {
            let waits = timeout(PATIENT, full.until_one_waits()).await;
            waits.expect("a body waits");
            sleep_until(context.deadline + Duration::from_millis(1)).await;
            drop(full.held);
        };
        let attempt = storm_worker::handler::Handler::run(&handler, &job, &context);
        tokio::pin!(attempt);
        tokio::select! {
            biased;
            // No head has come in time.
            result = &mut attempt => assert!(result.is_err_and(|it| it.status.is_none())),
            () = release => {
                let result = attempt.await;
                // While the result holds its own.
                let reserved = memory.reserved();
                return (result, reserved);
            }
        }
        time *= 2;
        assert!(time < PATIENT, "no head came");
    }
}

#[tokio::test]
async fn the_time_for_which_a_result_waits_for_memory_is_not_its_endpoints() {
    let (result, reserved) = waiting_past_its_deadline(&answering(MAX_RESULT)).await;
    let output = result.unwrap();
    let length = output.as_str().len();
    assert_eq!((length, reserved), (MAX_RESULT + 2, length));
}

#[tokio::test]
async fn an_endpoint_that_closes_while_its_result_waits_has_not_failed() {
    let (result, reserved) = waiting_past_its_deadline(&answering(MAX_RESULT / 2)).await;
    assert_eq!(result.unwrap_err().next, Next::Shortage(Shortage::Budget));
    assert_eq!(reserved, 0);
}

#[tokio::test]
async fn an_endless_result_past_the_limit_ends_at_its_deadline_and_lets_the_next_one_go_on() {
    let endless = Receiver::start(|_, stream| {
        read_request(stream);
        write(
            stream,
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n",
        );
        while write(stream, "1\r\nx\r\n") {
            std::thread::sleep(Duration::from_millis(5));
        }
    });
    let other = answering(MAX_RESULT);
    let mut time = HASTY;
    loop {
        let memory = MemoryBudget::new(BUDGET);
        let _inputs = memory.reserve_up_to(BUDGET).unwrap();
        let full = Full {
            memory: memory.clone(),
            held: [(); 2].map(|()| memory.reservation()),
        };
        let [first, second] = [&endless, &other].map(|receiver| full.handler(receiver));
        let until_past = async {
            while memory.reserved() == BUDGET {
                sleep(Duration::from_millis(1)).await;
            }
        };
        let first = attempt(&first, time);
        tokio::pin!(first);
        let is_past = tokio::select! {
            _ = &mut first => false,
            () = until_past => true,
        };
        if is_past {
            let second = async {
                let output = attempt(&second, PATIENT).await.unwrap();
                (output.as_str().len(), Instant::now())
            };
            let (failure, (length, ended)) = tokio::join!(
                async {
                    let failure = first.await.unwrap_err();
                    (failure, Instant::now())
                },
                second
            );
            assert_eq!(
                failure.0.next,
                Next::Retry { after: None },
                "its own deadline"
            );
            assert!(ended >= failure.1, "it has waited");
            assert_eq!(length, MAX_RESULT + 2);
            return;
        }
        time *= 2;
        assert!(time < PATIENT, "no head came");
    }
}
