// The page while it is served: what is shown is replaced when a newer state of the profile comes.

const LIVE_WORDS = {
  waiting: ["connecting", "Waiting for an answer"],
  live: ["live", "Newer states are shown as they come; click to pause (p)"],
  paused: ["paused", "What is shown stays as it is; click to go on (p)"],
  lost: ["not connected", "The connection was lost; it is tried again"],
  ended: ["ended", "The recording is over; this is its last state"],
};
/** While something is being dragged, a newer state waits for so long until it is tried again, in milliseconds. */
const DRAG_MS = 200;

class Live {
  /** Follows the states after the one that `app` shows, which has this number. */
  constructor(app, shown) {
    this.app = app;
    this.state = "waiting";
    this.isPaused = false;
    /** The newest state that was not shown yet. */
    this.next = null;
    this.isReading = false;
    this.mark = byId("live");
    this.mark.hidden = false;
    this.mark.addEventListener("click", () => this.pause());
    document.addEventListener("visibilitychange", () => this.show());
    this.source = new EventSource(`events${location.search}&after=${shown}`);
    this.source.addEventListener("open", () => this.become("live"));
    this.source.addEventListener("error", () => {
      // Who is refused is not to try again: the token is of another run.
      this.become(this.source.readyState === EventSource.CLOSED ? "ended" : "lost");
    });
    this.source.addEventListener("profile", ({ data }) => {
      this.next = data;
      this.show();
    });
    this.source.addEventListener("ended", () => {
      this.source.close();
      this.become("ended");
    });
    this.become(this.state);
  }

  become(state) {
    this.state = state;
    const shown = this.isPaused ? "paused" : state;
    const [words, title] = LIVE_WORDS[shown];
    this.mark.textContent = words;
    this.mark.title = title;
    this.mark.dataset.state = shown;
    this.mark.setAttribute("aria-pressed", String(this.isPaused));
  }

  /** Holds still what is shown, or goes on. */
  pause() {
    if (this.state === "ended" && !this.isPaused) return;
    this.isPaused = !this.isPaused;
    this.become(this.state);
    this.show();
  }

  /** Shows the newest state, unless it is not to be seen. */
  async show() {
    if (this.next === null || this.isPaused || this.isReading || document.hidden) return;
    if (this.app.timeline.brush !== null) return void setTimeout(() => this.show(), DRAG_MS);
    const packed = this.next;
    this.next = null;
    this.isReading = true;
    try {
      const profile = await readProfile(packed);
      // It may have been paused meanwhile.
      if (this.isPaused) this.next ??= packed;
      else this.app.replace(profile);
    } finally {
      this.isReading = false;
    }
    this.show();
  }
}
