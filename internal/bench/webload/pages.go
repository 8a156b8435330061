package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"slices"
	"strings"
	"time"

	"lighter/internal/api"
)

// keptTime is a little more than that for which the server keeps answers.
const keptTime = 1100 * time.Millisecond

// warmRuns is how often a page is asked for that is kept.
const warmRuns = 50

// paths are pages, with builds from all over the ledger.
func (l *load) paths() []string {
	old, failed := l.made.Build(l.made.Builds/3), l.made.Build(l.made.Builds*3/4)
	for i := l.made.Builds * 3 / 4; failed.State != api.Failed; i++ {
		failed = l.made.Build(i)
	}
	waiting := l.made.Build(l.made.Builds - 10)
	name := api.DerivationName(old.Derivation)
	return []string{
		"/", "/activity", "/builds", "/builds?state=failed", "/builds?state=succeeded&name=rust-*", "/builds?machine=machine7",
		"/builds?tag=" + url.QueryEscape("commit="+old.Tags["commit"]), "/builds?system=armhf-linux&state=timed-out", "/builds?name=" + url.QueryEscape(name),
		"/build/" + old.ID, "/build/" + failed.ID, "/build/" + waiting.ID,
		"/machine/machine7", "/tag/" + url.PathEscape("commit="+old.Tags["commit"]), "/tag/" + url.PathEscape("branch=master"),
		"/blocking", "/history", "/history?span=month", "/feed.atom", "/badge/tag/" + url.PathEscape("commit="+old.Tags["commit"]) + ".svg", "/metrics",
	}
}

// visit is how one request went.
type visit struct {
	status       int
	first, whole time.Duration
	size         int
}

func ask(ctx context.Context, url string) (v visit, err error) {
	var begun time.Time
	trace := &httptrace.ClientTrace{GotFirstResponseByte: func() { v.first = time.Since(begun) }}
	r, err := http.NewRequestWithContext(httptrace.WithClientTrace(ctx, trace), http.MethodGet, url, nil)
	if err != nil {
		return v, err
	}
	r.Header.Set("Accept-Encoding", "identity")
	begun = time.Now()
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		return v, err
	}
	defer answer.Body.Close()
	n, err := io.Copy(io.Discard, answer.Body)
	v.status, v.whole, v.size = answer.StatusCode, time.Since(begun), int(n)
	return v, err
}

// pages measures each page.
func (l *load) pages(ctx context.Context) error {
	fmt.Printf("| page | first byte | the longest | whole | kept for a second: first byte | size |\n|---|---|---|---|---|---|\n")
	for _, path := range l.paths() {
		var cold, warm []visit
		for range l.runs {
			if err := pause(ctx, keptTime); err != nil {
				return err
			}
			v, err := ask(ctx, l.url+path)
			if err != nil {
				return fmt.Errorf("%s: %w", path, err)
			}
			cold = append(cold, v)
		}
		if status := cold[0].status; status != http.StatusOK {
			fmt.Printf("| `%s` | status %d | | | | |\n", shorter(path), status)
			continue
		}
		for range warmRuns {
			v, err := ask(ctx, l.url+path)
			if err != nil {
				return fmt.Errorf("%s: %w", path, err)
			}
			warm = append(warm, v)
		}
		first := func(v visit) time.Duration { return v.first }
		fmt.Printf("| `%s` | %s | %s | %s | %s | %d KB |\n", shorter(path), ms(middle(cold, first)), ms(most(cold, first)),
			ms(middle(cold, func(v visit) time.Duration { return v.whole })), ms(middle(warm, first)), (cold[0].size+1023)/1024)
	}
	return nil
}

// shorter leaves out most of ids and hashes.
func shorter(path string) string {
	if i := strings.LastIndexAny(path, "/D"); i > 0 && len(path)-i > 30 {
		return path[:i+9] + "…"
	}
	return path
}

func middle(visits []visit, of func(visit) time.Duration) time.Duration {
	list := sorted(visits, of)
	return list[len(list)/2]
}

func most(visits []visit, of func(visit) time.Duration) time.Duration {
	list := sorted(visits, of)
	return list[len(list)-1]
}

func sorted(visits []visit, of func(visit) time.Duration) (list []time.Duration) {
	for _, v := range visits {
		list = append(list, of(v))
	}
	slices.Sort(list)
	return list
}

func ms(d time.Duration) string { return fmt.Sprintf("%.1f ms", d.Seconds()*1000) }

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}
