"""A client that is generated from the description of the API: submits a job, waits for it, lists
it, cancels another, and reads what a refusal says. Run by scripts/tests/openapi.sh."""

import os
import time

from storm_client import AuthenticatedClient
from storm_client.api.requests import cancel_request, get_request, list_requests
from storm_client.api.submissions import submit_report
from storm_client.models import Accepted, AsyncSubmission, Cancelled, Problem, Request, RequestPage
from storm_client.models import Status

client = AuthenticatedClient(base_url=os.environ["STORM_API"], token=os.environ["STORM_TOKEN"])


def submit(records, name, **headers):
    body = AsyncSubmission(records=records, report_name=name)
    return submit_report.sync_detailed(client=client, body=body, **headers)


def expect(value, kind):
    assert isinstance(value, kind), f"expected {kind.__name__}, not {value}"
    return value


# Submitted twice: the key makes it one job.
key = f"python-{time.time_ns()}"
first = expect(submit(10, "Q1_Finance", idempotency_key=key).parsed, Accepted)
repeated = submit(10, "Q1_Finance", idempotency_key=key)
assert repeated.headers["idempotent-replayed"] == "true", repeated.headers
assert expect(repeated.parsed, Accepted).request_id == first.request_id

# The long poll ends with the job. httpx gives up after 5 s unless it is told otherwise.
patient = client.with_timeout(70)
found = expect(get_request.sync(first.request_id, client=patient, wait="60s"), Request)
assert found.status == Status.COMPLETED, found
assert len(found.result_payload["checksum"]) == 64, found

page = expect(list_requests.sync(client=client, status=Status.COMPLETED, limit=1), RequestPage)
assert page.requests[0].id == first.request_id, page

job = expect(submit(100_000, "a long one").parsed, Accepted)
cancelled = expect(cancel_request.sync(job.request_id, client=client), Cancelled)
assert cancelled.failure.reason == "cancelled", cancelled

# A refusal has the type of a problem.
refused = submit(0, "")
assert refused.status_code == 422, refused
problem = expect(refused.parsed, Problem)
assert problem.type_ == "urn:storm:problem:validation", problem
assert [error.field for error in problem.errors] == ["records", "report_name"], problem

over = expect(cancel_request.sync(first.request_id, client=client), Problem)
assert over.type_ == "urn:storm:problem:request-over", over
print("python: all is as described")
