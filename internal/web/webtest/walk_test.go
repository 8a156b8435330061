package webtest

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"

	"lighter/internal/api"
	"lighter/internal/testkit/farm"
)

// TestEventArrives has a build submitted while the page of activity is open: it is shown without the page being
// loaded again, and nothing that a reader does is lost.
func TestEventArrives(t *testing.T) {
	s := needSite(t)
	b := newTab(t, s.url)
	b.open("/activity")
	value[bool](b, "window.stays = true")
	b.await(`document.getElementById("live").textContent === "live"`)
	link := fmt.Sprintf("a[href='/build/%s']", s.builds["slow-tool-7.7"].ID)
	b.do(chromedp.Focus(chromedp.CSS("main " + link)))
	value[bool](b, `document.querySelector("main").firstElementChild.old = true`)
	path, err := s.Add(t.Context(), farm.Recipe{Name: "live-1.0", Script: "mkdir $out"})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.ask(t.Context(), "live-1.0", api.Request{Derivation: path}); err != nil {
		t.Fatal(err)
	}
	b.await(`document.querySelector("main").innerText.includes("live-1.0")`)
	if !value[bool](b, `window.stays && !document.querySelector("main").firstElementChild.old`) {
		t.Error("the page was loaded again")
	}
	if got, want := value[string](b, `document.activeElement.getAttribute("href")`), "/build/"+s.builds["slow-tool-7.7"].ID; got != want {
		t.Errorf("the focus is on %q, want %q", got, want)
	}
}

// failureToError goes from the farm at a glance to the line of a log at which a build failed, by links.
func (b *tab) failureToError(s *site) {
	b.t.Helper()
	page := s.page("python-broken-0.9")
	b.open("/")
	b.follow("main a[href='" + page + "']")
	if text := b.text(); !strings.Contains(text, "It failed on alpha") || !strings.Contains(text, "Not built because of it") {
		b.t.Errorf("the page of the build says: %s", text)
	}
	b.follow("main a[href='" + page + "/log.html']")
	const link = ".notice a"
	if value[bool](b, `document.querySelector(".notice a").getAttribute("href").startsWith("#")`) {
		b.do(chromedp.Click(chromedp.CSS(link)))
	} else {
		b.follow(link)
	}
	if got := value[string](b, `document.getElementById(location.hash.slice(1))?.innerText ?? "nothing"`); !strings.Contains(got, failingLine) {
		b.t.Errorf("the link to the error leads to %q", got)
	}
}

// TestFailureToError finds out why a build failed.
func TestFailureToError(t *testing.T) {
	s := needSite(t)
	newTab(t, s.url).failureToError(s)
}

// TestCauseOfFailure goes from a build that was not made to the one that failed.
func TestCauseOfFailure(t *testing.T) {
	s := needSite(t)
	b := newTab(t, s.url)
	b.open(s.page("python-app-3.1"))
	b.follow(".notice a[href='" + s.page("python-broken-0.9") + "']")
	if got := value[string](b, `document.querySelector("h1").innerText`); !strings.HasPrefix(got, "python-broken-0.9") {
		t.Errorf("the cause is %q", got)
	}
}

// TestLiveLog has lines of a log appear while somebody looks.
func TestLiveLog(t *testing.T) {
	s := needSite(t)
	b := newTab(t, s.url)
	b.open(s.page("slow-tool-7.7") + "/log.html")
	value[bool](b, `window.first = document.querySelector("pre.log").lastElementChild.id, true`)
	b.await(`document.querySelector("pre.log").lastElementChild.id !== window.first`)
}

// TestLiveBuild has a build end while somebody looks at its page.
func TestLiveBuild(t *testing.T) {
	s := needSite(t)
	path, err := s.Add(t.Context(), farm.Recipe{Name: "watched-1.0", Script: "sleep 4; mkdir $out"})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.ask(t.Context(), "watched-1.0", api.Request{Derivation: path}); err != nil {
		t.Fatal(err)
	}
	b := newTab(t, s.url)
	b.open(s.page("watched-1.0"))
	value[bool](b, "window.stays = true")
	b.await(`document.querySelector("h1").innerText.includes("succeeded")`)
	if !value[bool](b, "window.stays") {
		t.Error("the page was loaded again")
	}
	if value[bool](b, `document.getElementById("outputs") === null`) {
		t.Error("there are no outputs")
	}
}

// TestCopy copies a command.
func TestCopy(t *testing.T) {
	s := needSite(t)
	b := newTab(t, s.url)
	b.open(s.page("hello-2.12.1"))
	value[bool](b, `navigator.clipboard.writeText = (text) => { window.copied = text; return Promise.resolve(); }, true`)
	b.do(chromedp.Click(chromedp.CSS("button.copy")))
	b.await(`document.querySelector("button.copy").textContent === "Copied"`)
	if got, want := value[string](b, "window.copied"), "lighter builds show "+s.builds["hello-2.12.1"].ID; got != want {
		t.Errorf("copied %q, want %q", got, want)
	}
}

// TestWithoutScript goes the same ways where pages' scripts do not run.
func TestWithoutScript(t *testing.T) {
	s := needSite(t)
	b := newTab(t, s.url)
	b.scriptsOff()
	for _, p := range s.places() {
		b.open(p.path)
	}
	b.open("/")
	b.follow("nav a[href='/activity']")
	if text := b.text(); !strings.Contains(text, "slow-tool-7.7 building") {
		t.Errorf("what goes on is not shown: %s", text)
	}
	if value[bool](b, `document.getElementById("live").textContent !== ""`) {
		t.Error("scripts run")
	}
	b.failureToError(s)
}

// TestHostile opens whatever shows what an enemy wrote: a tag, a log, what became of a build.
func TestHostile(t *testing.T) {
	s := needSite(t)
	b := newTab(t, s.url)
	for _, p := range s.places() {
		b.open(p.path)
		b.harmless(p.path)
	}
}

// harmless looks for what an enemy's text would do to a page. That it asks for nothing elsewhere is looked at in any tab.
func (b *tab) harmless(path string) {
	b.t.Helper()
	if got := value[string](b, "document.title"); strings.Contains(got, "owned") {
		b.t.Errorf("%s: the title is %q", path, got)
	}
	if got := value[string](b, `[...document.querySelectorAll("script:not([src]), img[onerror], main b, [style], iframe")].map(e => e.outerHTML).join("\n")`); got != "" {
		b.t.Errorf("%s: elements of an enemy's: %s", path, got)
	}
	for _, c := range value[string](b, "document.documentElement.outerHTML") {
		if c < ' ' && c != '\n' && c != '\t' || c >= 0x7f && c < 0xa0 || c >= 0x202a && c <= 0x202e || c >= 0x2066 && c <= 0x2069 {
			b.t.Errorf("%s: it has a control character, %U", path, c)
		}
	}
}

// TestKeyboard walks through pages with the keyboard alone.
func TestKeyboard(t *testing.T) {
	s := needSite(t)
	b := newTab(t, s.url)
	for _, p := range s.places() {
		b.open(p.path)
		b.do(chromedp.KeyEvent(kb.Tab))
		if got := value[string](b, "document.activeElement.className"); got != "skip" {
			t.Errorf("%s: the first is %q, want the link to the content", p.path, got)
		}
		if !value[bool](b, inSight) {
			t.Errorf("%s: nobody sees the link to the content", p.path)
		}
		b.do(chromedp.KeyEvent(kb.Enter), chromedp.KeyEvent(kb.Tab))
		if !value[bool](b, `document.querySelector("main").contains(document.activeElement) || document.querySelector("main :is(a, button, input, select, summary)") === null`) {
			t.Errorf("%s: behind the link to the content is %s", p.path, value[string](b, "document.activeElement.outerHTML"))
		}
		b.tabs(p.path)
	}
}

const inSight = `(() => { const r = document.activeElement.getBoundingClientRect(); return r.width > 1 && r.left >= 0 && r.bottom >= 0 && r.top <= innerHeight })()`

// maxTabs bounds the stops that are looked at on a page.
const maxTabs = 60

// tabs goes from one stop to the next, which come in the order in which they are read; each is in sight, and shows
// that it has the focus.
func (b *tab) tabs(path string) {
	b.t.Helper()
	value[bool](b, "document.activeElement.blur(); window.stops = []; true")
	for range maxTabs {
		b.do(chromedp.KeyEvent(kb.Tab))
		if value[bool](b, "document.activeElement === document.body || stops.includes(document.activeElement)") {
			break
		}
		if !value[bool](b, inSight) {
			b.t.Errorf("%s: a stop is out of sight: %s", path, value[string](b, "document.activeElement.outerHTML"))
		}
		if !value[bool](b, `getComputedStyle(document.activeElement).outlineStyle !== "none"`) {
			b.t.Errorf("%s: nobody sees the focus: %s", path, value[string](b, "document.activeElement.outerHTML"))
		}
		value[int](b, "stops.push(document.activeElement)")
	}
	if !value[bool](b, "stops.every((e, i) => i === 0 || stops[i-1].compareDocumentPosition(e) & Node.DOCUMENT_POSITION_FOLLOWING)") {
		b.t.Errorf("%s: stops are not in the order of reading", path)
	}
}

// TestPolicy is that of every page, and of what is not there.
func TestPolicy(t *testing.T) {
	s := needSite(t)
	paths := []string{"/none", "/build/none", "/static/style.css"}
	for _, p := range s.places() {
		paths = append(paths, p.path)
	}
	for _, path := range paths {
		header, _ := s.get(t, path)
		policy := strings.Split(header.Get("Content-Security-Policy"), "; ")
		if !slices.Contains(policy, "default-src 'none'") || slices.ContainsFunc(policy, func(p string) bool { return strings.Contains(p, "unsafe") }) {
			t.Errorf("%s: policy %q", path, policy)
		}
	}
}
