// The live page: says whether the service accepts requests.

const state = document.getElementById("state");

async function check() {
  try {
    const answer = await fetch("/readyz");
    const { status } = await answer.json();
    state.textContent = answer.ok ? "The service accepts requests." : `The service is ${status}.`;
  } catch {
    state.textContent = "The service does not answer.";
  }
  setTimeout(check, 2000);
}

check();
