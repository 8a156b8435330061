package webtest

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/chromedp/chromedp"

	"lighter/internal/testkit"
)

// place is a page.
type place struct{ name, path string }

// places are all pages, as this farm has them.
func (s *site) places() []place {
	return []place{
		{"index", "/"},
		{"activity", "/activity"},
		{"builds", "/builds"},
		{"builds-chosen", "/builds?state=failed&state=dependency-failed&tag=channel%3Dguix&since=2d"},
		{"blocking", "/blocking"},
		{"tag", "/tag/channel=guix"},
		{"tag-all", "/tag/channel=guix?show=all"},
		{"compared", "/tag/package=python?with=package%3Dhello"},
		{"build-failed", s.page("python-broken-0.9")},
		{"build-hostile", s.page("evil-1.0")},
		{"build-without", s.page("python-app-3.1")},
		{"build-queued", s.page("hello-riscv-2.12")},
		{"build-running", s.page("slow-tool-7.7")},
		{"build-good", s.page("hello-2.12.1")},
		{"log", s.page("python-broken-0.9") + "/log.html"},
		{"log-hostile", s.page("evil-1.0") + "/log.html"},
		{"log-running", s.page("slow-tool-7.7") + "/log.html"},
		{"log-none", s.page("python-app-3.1") + "/log.html"},
		{"machine", "/machine/alpha"},
		{"machine-down", "/machine/star"},
		{"history", "/history"},
		{"history-month", "/history?span=month"},
	}
}

// page is the path of a build's page.
func (s *site) page(name string) string { return "/build/" + s.builds[name].ID }

// maxPage is how large a page may be, in bytes.
const maxPage = 100 << 10

// TestPages opens each page on a telephone and in a window, in the light and in the dark.
func TestPages(t *testing.T) {
	s := needSite(t)
	axe := needAxe(t)
	b := newTab(t, s.url)
	for _, p := range s.places() {
		t.Run(p.name, func(t *testing.T) {
			b.t = t
			if _, html := s.get(t, p.path); len(html) > maxPage {
				t.Errorf("it has %d bytes, want at most %d", len(html), maxPage)
			}
			for _, width := range []int64{wide, narrow} {
				for _, scheme := range []string{light, dark} {
					b.look(width, scheme)
					b.open(p.path)
					at := fmt.Sprintf("%d px, %s", width, scheme)
					if got := value[int64](b, "document.documentElement.scrollWidth"); got > width {
						t.Errorf("%s: it is %d px wide: %s", at, got, value[string](b, widest))
					}
					for _, finding := range b.accessibility(axe) {
						t.Errorf("%s: %s", at, finding)
					}
					if *shots != "" {
						b.picture(filepath.Join(*shots, fmt.Sprintf("%s-%d-%s.png", p.name, width, scheme)))
					}
				}
			}
			b.headings()
		})
	}
	b.t = t
}

// widest names elements that reach beyond the window, except those that can be scrolled by themselves.
const widest = `[...document.querySelectorAll("body *")].filter(e => !e.closest(".scroll, pre, .hidden") && e.getBoundingClientRect().right > innerWidth + 1)
	.slice(0, 5).map(e => e.outerHTML.slice(0, 150)).join("\n")`

// headings are one of the first level, and none leaves a level out.
func (b *tab) headings() {
	b.t.Helper()
	levels := value[[]int](b, `[...document.querySelectorAll("h1,h2,h3,h4,h5,h6")].map(h => Number(h.tagName[1]))`)
	before := 0
	for i, level := range levels {
		if level > before+1 || (level == 1) != (i == 0) {
			b.t.Errorf("levels of headings: %v", levels)
			return
		}
		before = level
	}
	if before == 0 {
		b.t.Error("it has no heading")
	}
}

// get returns what is at a path, without a browser.
func (s *site) get(t *testing.T, path string) (http.Header, []byte) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.url+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer.Header, body
}

// axeFile is what "make axe" makes.
const axeFile = "../../../build/axe-core/axe.min.js"

var axeSource = sync.OnceValues(func() (string, error) {
	text, err := os.ReadFile(axeFile)
	return string(text), err
})

func needAxe(t *testing.T) string {
	t.Helper()
	text, err := axeSource()
	if errors.Is(err, os.ErrNotExist) {
		testkit.Missing(t, errors.New("axe-core is not there; make axe gets it"))
	}
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// finding is a rule of axe-core's that a page violates.
type finding struct {
	ID     string   `json:"id"`
	Impact string   `json:"impact"`
	Help   string   `json:"help"`
	Nodes  []string `json:"nodes"`
}

func (f finding) String() string {
	return fmt.Sprintf("%s (%s): %s\n%s", f.ID, f.Impact, f.Help, strings.Join(f.Nodes, "\n"))
}

// accessibility returns what axe-core finds on the page and calls serious or critical.
func (b *tab) accessibility(axe string) (bad []finding) {
	b.t.Helper()
	// The page's policy forbids other scripts; the protocol's own are no part of it.
	value[bool](b, axe+"; true")
	found := value[[]finding](b, `axe.run(document, {resultTypes: ["violations"], iframes: false, preload: false}).then(r => r.violations.map(v =>
		({id: v.id, impact: v.impact, help: v.help, nodes: v.nodes.slice(0, 5).map(n => n.html + " " + n.any.concat(n.all).map(c => c.message).join("; "))})))`)
	for _, f := range found {
		switch f.Impact {
		case "serious", "critical":
			bad = append(bad, f)
		default:
			b.t.Log(f)
		}
	}
	return bad
}

// picture writes the whole page into a file.
func (b *tab) picture(file string) {
	b.t.Helper()
	png, err := chromedp.Run(b.ctx, chromedp.FullScreenshot(100))
	if err == nil {
		err = errors.Join(os.MkdirAll(filepath.Dir(file), 0o755), os.WriteFile(file, png, 0o600))
	}
	if err != nil {
		b.t.Error(err)
	}
}
