package webtest

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
)

// tab is one of the browser's, for one test. What a page must never do is noted, and fails the test: complain on the
// console, be refused something by its own policy, ask elsewhere.
type tab struct {
	t    *testing.T
	base string // URL of the farm's page, without a path
	ctx  context.Context

	mu    sync.Mutex // owns all below
	wrong []string
}

func newTab(t *testing.T, base string) *tab {
	t.Helper()
	b := &tab{t: t, base: base}
	// Each test has cookies of its own.
	ctx, cancel := chromedp.NewContext(needBrowser(t), chromedp.WithNewBrowserContext(), chromedp.WithListener(b.note))
	b.ctx = ctx
	t.Cleanup(func() {
		cancel()
		b.mu.Lock()
		defer b.mu.Unlock()
		for _, text := range b.wrong {
			t.Error("the browser says: ", text)
		}
	})
	if err := chromedp.Do(ctx); err != nil {
		t.Fatal(err)
	}
	b.call(func(ctx context.Context) error {
		_, err := chromedp.Call(ctx, network.Enable, network.EnableParams{})
		return err
	})
	b.look(wide, light)
	return b
}

// note is called for each event of the tab, and must not wait.
func (b *tab) note(event any) {
	switch e := event.(type) {
	case *log.EventEntryAdded:
		if e.Entry.Level == log.EntryLevelError || e.Entry.Level == log.EntryLevelWarning || e.Entry.Source == log.EntrySourceSecurity {
			b.blame("%s: %s (%s)", e.Entry.Source, e.Entry.Text, e.Entry.URL)
		}
	case *runtime.EventExceptionThrown:
		b.blame("exception: %s %s", e.ExceptionDetails.Text, e.ExceptionDetails.URL)
	case *runtime.EventConsoleAPICalled:
		b.blame("console.%s", e.Type)
	case *network.EventRequestWillBeSent:
		if url := e.Request.URL; b.base != "" && !strings.HasPrefix(url, b.base+"/") && url != "about:blank" {
			b.blame("it asks for %s", url)
		}
	}
}

func (b *tab) blame(format string, args ...any) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.wrong = append(b.wrong, fmt.Sprintf(format, args...))
}

func (b *tab) call(do func(context.Context) error) {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, patience)
	defer cancel()
	if err := do(ctx); err != nil {
		b.t.Fatal(err)
	}
}

func (b *tab) do(steps ...chromedp.Action[chromedp.Void]) {
	b.t.Helper()
	b.call(func(ctx context.Context) error { return chromedp.Do(ctx, steps...) })
}

// open goes to a path, which must answer with 200.
func (b *tab) open(path string) { b.t.Helper(); b.openFor(path, http.StatusOK) }

func (b *tab) openFor(path string, status int64) {
	b.t.Helper()
	b.call(func(ctx context.Context) error {
		answer, err := chromedp.Run(ctx, chromedp.NavigateResponse(b.base+path))
		if err == nil && answer.Status != status {
			err = fmt.Errorf("%s: status %d, want %d", path, answer.Status, status)
		}
		return err
	})
}

// follow clicks the first link, or button, that a CSS selector finds, and waits for the page behind it.
func (b *tab) follow(selector string) {
	b.t.Helper()
	b.call(func(ctx context.Context) error {
		answer, err := chromedp.RunResponse(ctx, chromedp.Click(chromedp.CSS(selector)))
		if err != nil {
			return fmt.Errorf("following %s: %w", selector, err)
		}
		if answer.Status != http.StatusOK {
			return fmt.Errorf("following %s: status %d", selector, answer.Status)
		}
		return nil
	})
}

// value returns what an expression of JavaScript gives in the page, even where the page's own scripts are off.
func value[T any](b *tab, expression string) T {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, patience)
	defer cancel()
	v, err := chromedp.Run(ctx, chromedp.Evaluate[T](expression, chromedp.EvalAwaitPromise))
	if err != nil {
		b.t.Fatalf("%s: %v", expression, err)
	}
	return v
}

// await waits until an expression of JavaScript is true in the page.
func (b *tab) await(expression string) {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, patience)
	defer cancel()
	if _, err := chromedp.Run(ctx, chromedp.Poll[bool](expression, chromedp.WithPollingTimeout(0))); err != nil {
		b.t.Fatalf("%s does not come true: %v\n%s", expression, err, b.text())
	}
}

// A screen is as wide as a telephone or as a common window; height follows what pages show.
const (
	narrow = 390
	wide   = 1280
	height = 900
)

// What people's systems ask for.
const (
	light = "light"
	dark  = "dark"
)

func (b *tab) look(width int64, scheme string) {
	b.t.Helper()
	b.do(chromedp.EmulateViewport(width, height))
	b.call(func(ctx context.Context) error {
		_, err := chromedp.Call(ctx, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{
			Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}},
		})
		return err
	})
}

// scriptsOff has the page's own scripts not run.
func (b *tab) scriptsOff() {
	b.t.Helper()
	b.call(func(ctx context.Context) error {
		_, err := chromedp.Call(ctx, emulation.SetScriptExecutionDisabled, emulation.SetScriptExecutionDisabledParams{Value: true})
		return err
	})
}

// text is what a reader sees of the page.
func (b *tab) text() string { b.t.Helper(); return value[string](b, "document.body.innerText") }
