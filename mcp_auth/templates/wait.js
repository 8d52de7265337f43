(async () => {
  const here = location.pathname.replace(/\/$/, "");
  const shown = document.body.dataset.state;
  for (;;) {
    await new Promise((next) => setTimeout(next, 1500));
    try {
      const answer = await fetch(here + "/state", { cache: "no-store", credentials: "same-origin" });
      if (!answer.ok || (await answer.json()).state !== shown) return location.reload();
    } catch {
      // Offline for a moment, as phones are when the chat is in front.
    }
  }
})();
