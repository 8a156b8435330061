// What pages of lighter do where scripts run: they look again when something happened. Without it
// everything works but that.
"use strict";

(() => {
  const main = document.getElementById("main");
  const live = document.getElementById("live");

  // A page with data-live looks again, once in a second at most, when an event says that something
  // changed: with a value, only when it is a build or machine of that name.
  const name = main.dataset.live;
  if (name === undefined || !window.EventSource) return;
  let wanted = false, busy = false, source = null;

  const concerns = (c) => name === "" || c.more || [...(c.builds || []), ...(c.machines || [])].includes(name);

  const busyReader = () => {
    const selected = window.getSelection();
    return (selected && !selected.isCollapsed) || main.querySelector("dialog[open]") ||
      (document.activeElement && main.contains(document.activeElement) && /^(INPUT|SELECT|TEXTAREA)$/.test(document.activeElement.tagName));
  };

  // look fetches the page and puts its content in place of what is shown.
  const look = async () => {
    if (busy || document.hidden || busyReader()) return;
    wanted = false;
    busy = true;
    try {
      const answer = await fetch(location.href, { headers: { Accept: "text/html" } });
      if (answer.ok) replace(new DOMParser().parseFromString(await answer.text(), "text/html"));
      say("live", "");
    } catch {
      say("waiting for the page", "warn");
    } finally {
      busy = false;
    }
  };

  const replace = (page) => {
    const fresh = page.getElementById("main");
    if (!fresh) return;
    const open = [...main.querySelectorAll("details[open][id]")].map((d) => d.id);
    const focused = document.activeElement && main.contains(document.activeElement) ? document.activeElement.getAttribute("href") : null;
    main.replaceChildren(...fresh.childNodes);
    for (const id of open) document.getElementById(id)?.setAttribute("open", "");
    if (focused) [...main.querySelectorAll("a[href]")].find((a) => a.getAttribute("href") === focused)?.focus({ preventScroll: true });
    document.title = page.title;
    const made = page.querySelector("footer p"), shown = document.querySelector("footer p");
    if (made && shown) shown.replaceWith(made);
    document.dispatchEvent(new Event("lighter:replaced"));
  };

  const say = (text, tone) => {
    if (live.textContent !== text) live.textContent = text;
    live.className = tone;
  };

  const connect = () => {
    source = new EventSource("/events?coalesce");
    source.addEventListener("open", () => say("live", ""));
    source.addEventListener("error", () => say("not live now", "warn"));
    source.addEventListener("changes", (e) => {
      if (concerns(JSON.parse(e.data))) wanted = true;
    });
  };

  connect();
  setInterval(() => wanted && look(), 1000);
  document.addEventListener("visibilitychange", () => {
    if (document.hidden) {
      source.close();
    } else {
      connect();
      wanted = true;
    }
  });
})();

// A log that is being written goes on: its newer lines are fetched as the server renders them, while
// somebody looks, and seldom when little comes.
(() => {
  const log = document.querySelector("pre.log");
  if (!log) return;
  const line = /^#L(\d+)$/.exec(location.hash);
  if (line && !document.getElementById(line[0].slice(1)) && !new URLSearchParams(location.search).has("line")) {
    const there = new URL(location.href);
    for (const name of ["from", "before"]) there.searchParams.delete(name);
    there.searchParams.set("line", line[1]);
    location.replace(there);
    return;
  }
  const maxLines = 5000, soon = 1000, late = 15000;
  const follow = document.querySelector("#follow input");
  let wait = soon, timer = 0;

  const look = async () => {
    timer = 0;
    if (document.hidden) return;
    const page = await fetch(new URL(log.dataset.more, location.href), { headers: { Accept: "text/html" } })
      .then(async (a) => a.ok && new DOMParser().parseFromString(await a.text(), "text/html"), () => null);
    const fresh = page && page.querySelector("pre.log");
    if (fresh) take(page, fresh);
    else wait = Math.min(late, 2 * wait);
    if (log.dataset.more) timer = setTimeout(look, wait * (0.8 + 0.4 * Math.random()));
  };

  const take = (page, fresh) => {
    const news = fresh.dataset.more !== log.dataset.more;
    wait = news ? soon : Math.min(late, 2 * wait);
    if (fresh.childElementCount) {
      for (const open of log.querySelectorAll(":scope > .open")) open.remove();
      log.append(...fresh.childNodes);
      while (log.childElementCount > maxLines) log.firstElementChild.remove();
      document.getElementById("nothing")?.remove();
    }
    document.getElementById("about").replaceWith(page.getElementById("about"));
    const more = document.getElementById("more");
    if (fresh.dataset.more) {
      log.dataset.more = more.href = fresh.dataset.more;
    } else {
      delete log.dataset.more;
      more.remove();
      document.getElementById("follow").remove();
      return;
    }
    if (news && follow.checked) log.lastElementChild?.scrollIntoView({ block: "end" });
  };

  if (log.dataset.tail === undefined) return;
  document.getElementById("follow").hidden = false;
  // Who scrolls away from the end wants to read there.
  document.addEventListener("scroll", () => { follow.checked = log.getBoundingClientRect().bottom < window.innerHeight + 120; }, { passive: true });
  timer = setTimeout(look, soon);
  document.addEventListener("visibilitychange", () => {
    if (document.hidden || timer || !log.dataset.more) return;
    wait = soon;
    look();
  });
})();

// Commands get a button that copies them.
(() => {
  const buttons = () => {
    for (const code of document.querySelectorAll("code[data-copy]")) {
      const button = document.createElement("button");
      button.textContent = "Copy";
      button.className = "copy";
      button.setAttribute("aria-label", "Copy: " + code.textContent);
      button.addEventListener("click", () => navigator.clipboard.writeText(code.textContent)
        .then(() => { button.textContent = "Copied"; }, () => { button.textContent = "Not allowed"; }));
      code.removeAttribute("data-copy");
      code.after(" ", button);
    }
  };
  if (navigator.clipboard) {
    buttons();
    document.addEventListener("lighter:replaced", buttons);
  }
})();
