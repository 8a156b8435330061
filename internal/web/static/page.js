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
