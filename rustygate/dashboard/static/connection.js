// The stream of states. It reconnects by itself: the browser does so after a lost connection, and this
// class after an error response or silence.

const RETRY_MS = 2000;

// The gate sends a state each second. A connection that is silent for this long is dead, for example
// after a laptop slept.
const SILENCE_MS = 6000;

export class Connection {
  /** @param onState called with each state. @param onLost called when the connection is lost. */
  constructor(onState, onLost) {
    this.onState = onState;
    this.onLost = onLost;
    this.open();
  }

  open() {
    this.source?.close();
    this.source = new EventSource("gate/events");
    this.source.addEventListener("message", (event) => this.receive(event));
    this.source.addEventListener("error", () => this.fail());
    this.watch(SILENCE_MS);
  }

  receive(event) {
    this.watch(SILENCE_MS);
    this.onState(JSON.parse(event.data));
  }

  fail() {
    this.onLost();
    this.watch(RETRY_MS);
  }

  /** Reconnect unless something arrives in time. */
  watch(timeout) {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => {
      this.onLost();
      this.open();
    }, timeout);
  }
}
