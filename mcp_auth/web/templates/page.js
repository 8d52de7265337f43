(() => {
  const { task, name } = document.body.dataset;
  const main = document.querySelector("main");
  const trouble = document.getElementById("trouble");
  let here = location.pathname.replace(/\/$/, "");
  let state = null;
  let isWatching = false;

  // Where a browser keeps no site data, there is no storage, or every use of it throws.
  const kept = (key) => {
    try {
      return localStorage.getItem(key);
    } catch {
      return null;
    }
  };
  const keep = (key, value) => {
    try {
      localStorage.setItem(key, value);
    } catch {
      // Said by what is read back.
    }
    return kept(key);
  };
  const made = () => {
    const bytes = crypto.getRandomValues(new Uint8Array(32));
    return btoa(String.fromCharCode(...bytes)).replace(/\+/g, "-").replace(/\//g, "_").replace(/=/g, "");
  };
  const forget = () => {
    const old = Date.now() - 30 * 24 * 3600 * 1000;
    for (const key of Object.keys(localStorage)) {
      const found = /^[ak]-[0-9a-f]{32}-(\d+)( page)?$/.exec(key);
      if (found && Number(found[1]) < old) localStorage.removeItem(key);
    }
  };

  const send = async (url, fields) => {
    const answer = await fetch(url, {
      method: "POST",
      cache: "no-store",
      headers: { Accept: "application/json" },
      body: new URLSearchParams({ ...fields, secret: kept(name) ?? "" }),
    });
    if (answer.status === 429 || answer.status >= 500) throw new Error("later");
    if (answer.status === 404) return { state: "gone" };
    return answer.json();
  };
  // Phones are offline for a moment, as when the chat is in front.
  const insist = async (url, fields) => {
    for (let pause = 1500; ; pause = Math.min(pause * 1.5, 15000)) {
      try {
        const answer = await send(url, fields);
        trouble.hidden = true;
        return answer;
      } catch {
        trouble.hidden = false;
        await new Promise((next) => setTimeout(next, pause));
      }
    }
  };

  const show = (answer) => {
    if (answer.state === "gone" || (answer.state === "start" && task !== "start")) return location.reload();
    if (answer.main === undefined) return;
    state = answer.state;
    main.className = answer.tone;
    main.innerHTML = answer.main;
    document.title = answer.title;
    document.body.dataset.state = state;
    document.getElementById("said").textContent = answer.title;
    const heading = main.querySelector("h1");
    heading.tabIndex = -1;
    (main.querySelector("[autofocus]") ?? heading).focus();
    if (answer.onward) location.replace(answer.onward);
    else watch();
  };
  const watch = async () => {
    if (isWatching) return;
    isWatching = true;
    while (state === "code" || state === "working") {
      await new Promise((next) => setTimeout(next, 1500));
      try {
        const answer = await send(here + "/state", { seen: state });
        isWatching = false;
        if (answer.state !== state) return show(answer);
        isWatching = true;
      } catch {
        // The next look may be luckier.
      }
    }
    isWatching = false;
  };

  // The forms of what was put in place are sent from here: a form of its own could not carry what the browser keeps.
  main.addEventListener("submit", async (event) => {
    if (task === "start" && state === null) return;
    event.preventDefault();
    const button = event.submitter ?? main.querySelector("button");
    const fields = Object.fromEntries(new FormData(event.target));
    if (button.name) fields[button.name] = button.value;
    button.disabled = true;
    try {
      show(await send(location.pathname, fields));
      trouble.hidden = true;
      moveTo(here);
    } catch {
      trouble.hidden = false;
      button.disabled = false;
    }
  });
  const moveTo = (path) => {
    here = path;
    history.replaceState(null, "", path);
  };

  const begin = () => {
    const form = document.forms[0];
    document.getElementById("blocked")?.toggleAttribute("hidden", navigator.cookieEnabled);
    form.addEventListener("submit", () => {
      // What another tab keeps for this link counts for this one too.
      const secret = kept(name) ?? keep(name, made());
      if (secret === null) return;
      keep(name + " page", here);
      form.elements.secret.value = secret;
      form.elements.kept.value = "storage";
    });
    if (kept(name) !== null) resume();
  };
  const resume = async () => show(await insist(here + "/state", {}));
  const bringAnswer = async () => {
    // By its `state` an answer of ours is known before a form is read, and served when all other addresses have to wait.
    const known = new URLSearchParams({ state: new URLSearchParams(location.search).get("state") ?? "" });
    const answer = await insist(`${here}?${known}`, { answer: location.search.slice(1) });
    // Never before: loading the page again would have lost the code.
    moveTo(kept(name + " page") ?? here);
    show(answer);
  };
  const readLogin = () => {
    const form = document.forms[0];
    const button = form.querySelector("button");
    const packed = /(?:^#|&)tgAuthResult=([\w-]+)/.exec(location.hash);
    const isEmpty = ![...form.querySelectorAll("input")].some((input) => input.value);
    here = here.replace(/\/login\/[^/]*$/, "");
    history.replaceState(null, "", location.pathname);
    try {
      if (packed || isEmpty) {
        const text = atob(packed[1].replace(/-/g, "+").replace(/_/g, "/"));
        const answer = JSON.parse(new TextDecoder().decode(Uint8Array.from(text, (c) => c.charCodeAt(0))));
        for (const input of form.querySelectorAll("input")) {
          if (input.name in answer) input.value = String(answer[input.name]);
        }
      }
      button.hidden = false;
    } catch {
      document.getElementById("empty").hidden = false;
    }
  };

  try {
    forget();
  } catch {
    // No storage, so nothing old is in it.
  }
  ({ start: begin, page: resume, answer: bringAnswer, login: readLogin })[task]();
})();
