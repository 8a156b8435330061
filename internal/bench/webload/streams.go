package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sync/errgroup"

	"lighter/internal/api"
	"lighter/internal/testkit/farm"
	"lighter/store"
)

// measureStreams measures what readers of events cost, while builds are submitted and canceled.
func (l *load) measureStreams(ctx context.Context) error {
	drvs, err := l.derivations(ctx)
	if err != nil {
		return err
	}
	fmt.Printf("\n| who reads | events / s | `lighter web`: CPU | most memory | coordinator: CPU | most memory | read |\n|---|---|---|---|---|---|---|\n")
	for _, m := range []struct {
		what string
		rate int
		n    int
		read func(context.Context, *tally) error
	}{
		{what: "nobody, and nothing happens"},
		{what: "nobody", rate: l.rate},
		{what: "one page", rate: l.rate, n: 1, read: l.readCoalesced},
		{what: fmt.Sprintf("%d pages", l.streams), rate: l.rate, n: l.streams, read: l.readCoalesced},
		{what: fmt.Sprintf("%d pages, each of which looks again", l.streams), rate: l.rate, n: l.streams, read: l.readAndLook},
		{what: fmt.Sprintf("%d that want each event", l.streams), rate: l.rate, n: l.streams, read: l.readAll},
	} {
		if err := l.measure(ctx, m.what, drvs, m.rate, m.n, m.read); err != nil {
			return fmt.Errorf("%s: %w", m.what, err)
		}
	}
	return l.neverRead(ctx, drvs)
}

// measure has n readers read for a while.
func (l *load) measure(ctx context.Context, what string, drvs []store.Path, rate, n int, read func(context.Context, *tally) error) error {
	var got tally
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	group, groupCtx := errgroup.WithContext(ctx)
	if rate > 0 {
		group.Go(func() error { return l.happen(groupCtx, drvs, rate) })
	}
	for range n {
		group.Go(func() error { return read(groupCtx, &got) })
	}
	group.Go(func() error {
		defer stop()
		if err := pause(groupCtx, settleTime); err != nil {
			return err
		}
		before, err := l.figures(groupCtx)
		if err != nil {
			return err
		}
		got.reset()
		if err := pause(groupCtx, l.span); err != nil {
			return err
		}
		after, err := l.figures(groupCtx)
		if err != nil {
			return err
		}
		web, coordinator, err := l.peaks()
		if err != nil {
			return err
		}
		took := after.at.Sub(before.at).Seconds()
		fmt.Printf("| %s | %.0f | %.2f s / s | %d MiB | %.2f s / s | %d MiB | %s |\n", what, float64(after.event-before.event)/took,
			(after.web-before.web)/took, web>>20, (after.coordinator-before.coordinator)/took, coordinator>>20, got.text(took))
		return nil
	})
	err := group.Wait()
	if errors.Is(err, context.Canceled) {
		err = nil
	}
	return err
}

// settleTime is how long readers and events go on before they are measured.
const settleTime = 4 * time.Second

// tally counts what readers read.
type tally struct{ bytes, frames, looks atomic.Int64 }

func (t *tally) reset() { t.bytes.Store(0); t.frames.Store(0); t.looks.Store(0) }

func (t *tally) text(seconds float64) string {
	if t.frames.Load() == 0 {
		return ""
	}
	text := fmt.Sprintf("%.0f / s, %.1f MB / s", float64(t.frames.Load())/seconds, float64(t.bytes.Load())/seconds/1e6)
	if n := t.looks.Load(); n > 0 {
		text += fmt.Sprintf("; looks: %.0f / s", float64(n)/seconds)
	}
	return text
}

// figures are what processes have used.
type figures struct {
	at               time.Time
	event            uint64  // number of the last one
	web, coordinator float64 // seconds of processor time
}

// figures begins a new peak of memory, too.
func (l *load) figures(ctx context.Context) (f figures, err error) {
	status, err := l.client.Status(ctx)
	if err != nil {
		return f, err
	}
	f.at, f.event = time.Now(), status.LastEvent
	for pid, to := range map[int]*float64{l.web: &f.web, l.Coordinator().Pid: &f.coordinator} {
		if *to, err = processorTime(pid); err != nil {
			return f, err
		}
		// The kernel forgets the peak (proc(5)).
		if err := os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", pid), []byte("5"), 0); err != nil {
			return f, err
		}
	}
	return f, nil
}

func (l *load) peaks() (web, coordinator int64, err error) {
	web, err = farm.Figure(l.web, "VmHWM")
	if err == nil {
		coordinator, err = farm.Figure(l.Coordinator().Pid, "VmHWM")
	}
	return web, coordinator, err
}

// processorTime is what a process has used, in seconds (proc_pid_stat(5): utime and stime, in hundredths).
func processorTime(pid int) (float64, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	fields := bytes.Fields(text[bytes.LastIndexByte(text, ')')+1:])
	if len(fields) < 13 {
		return 0, fmt.Errorf("/proc/%d/stat: %q", pid, text)
	}
	user, err := strconv.Atoi(string(fields[11]))
	if err != nil {
		return 0, err
	}
	system, err := strconv.Atoi(string(fields[12]))
	return float64(user+system) / 100, err
}

// derivations makes those that are submitted; no machine builds for their system.
func (l *load) derivations(ctx context.Context) (drvs []store.Path, err error) {
	for i := range 500 {
		drv, err := l.Add(ctx, farm.Recipe{Name: fmt.Sprint("load-", i), System: "armhf-linux", Script: "exit 1"})
		if err != nil {
			return nil, err
		}
		drvs = append(drvs, drv)
	}
	return drvs, nil
}

// tick is between two groups of submissions.
const tick = 200 * time.Millisecond

// happen has so many events happen in a second: builds are submitted, and canceled again.
func (l *load) happen(ctx context.Context, drvs []store.Path, rate int) error {
	ticks := time.NewTicker(tick)
	defer ticks.Stop()
	status, err := l.client.Status(ctx)
	if err != nil {
		return err
	}
	begun, first := time.Now(), status.LastEvent
	const eventsOfBuild = 2
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-ticks.C:
		}
		if status, err = l.client.Status(ctx); err != nil {
			return err
		}
		due := int(time.Since(begun).Seconds()*float64(rate)) - int(status.LastEvent-first) // #nosec G115 -- few
		n := min(due/eventsOfBuild, len(drvs))
		if n <= 0 {
			continue
		}
		requests, ids := make([]api.Request, n), make([]string, n)
		for i := range requests {
			ids[i] = uuid.NewString()
			requests[i] = api.Request{ID: ids[i], Derivation: drvs[i]}
		}
		if _, err := l.client.SubmitAll(ctx, requests); err != nil {
			return err
		}
		if err := l.client.Cancel(ctx, ids...); err != nil {
			return err
		}
	}
}

// stream opens a stream of events.
func (l *load) stream(ctx context.Context, query string) (io.ReadCloser, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, l.url+"/events"+query, nil)
	if err != nil {
		return nil, err
	}
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		return nil, err
	}
	if answer.StatusCode != http.StatusOK {
		answer.Body.Close()
		return nil, fmt.Errorf("events: status %s", answer.Status)
	}
	return answer.Body, nil
}

// lines reads a stream, and calls do for each event.
func (l *load) lines(ctx context.Context, query string, got *tally, do func() error) error {
	body, err := l.stream(ctx, query)
	if err != nil {
		return err
	}
	defer body.Close()
	in := bufio.NewReaderSize(body, 64<<10)
	for {
		line, err := in.ReadSlice('\n')
		if errors.Is(err, bufio.ErrBufferFull) {
			err = nil
		}
		if err != nil {
			return errors.Join(err, ctx.Err())
		}
		got.bytes.Add(int64(len(line)))
		if bytes.HasPrefix(line, []byte("event: ")) {
			got.frames.Add(1)
			if err := do(); err != nil {
				return err
			}
		}
	}
}

func (l *load) readAll(ctx context.Context, got *tally) error {
	return l.lines(ctx, "", got, func() error { return nil })
}

func (l *load) readCoalesced(ctx context.Context, got *tally) error {
	return l.lines(ctx, "?coalesce", got, func() error { return nil })
}

// readAndLook is what a page does: it fetches itself when something changed.
func (l *load) readAndLook(ctx context.Context, got *tally) error {
	return l.lines(ctx, "?coalesce", got, func() error {
		_, err := ask(ctx, l.url+"/activity")
		got.looks.Add(1)
		return err
	})
}

// sleepers is how many readers open a stream and never read.
const sleepers = 50

// neverRead has readers that never read, and waits until they are dropped.
func (l *load) neverRead(ctx context.Context, drvs []store.Path) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	if _, err := l.figures(ctx); err != nil {
		return err
	}
	for range sleepers {
		conn, err := new(net.Dialer).DialContext(ctx, "tcp", strings.TrimPrefix(l.url, "http://"))
		if err != nil {
			return err
		}
		defer conn.Close()
		if _, err := fmt.Fprintf(conn, "GET /events HTTP/1.1\r\nHost: web\r\n\r\n"); err != nil {
			return err
		}
	}
	group, groupCtx := errgroup.WithContext(ctx)
	group.Go(func() error { return l.happen(groupCtx, drvs, l.rate) })
	group.Go(func() error {
		defer stop()
		begun := time.Now()
		for {
			if err := pause(groupCtx, keptTime); err != nil {
				return err
			}
			n, err := l.open(groupCtx)
			if err != nil {
				return err
			}
			if n > 0 {
				continue
			}
			web, coordinator, err := l.peaks()
			fmt.Printf("| %d that never read: all dropped after %.0f s | %d | | %d MiB | | %d MiB | |\n", sleepers, time.Since(begun).Seconds(), l.rate, web>>20, coordinator>>20)
			return err
		}
	})
	err := group.Wait()
	if errors.Is(err, context.Canceled) {
		err = nil
	}
	return err
}

// open returns how many streams are open.
func (l *load) open(ctx context.Context) (int, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, l.url+"/metrics", nil)
	if err != nil {
		return 0, err
	}
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		return 0, err
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		return 0, err
	}
	_, rest, found := strings.Cut(string(text), "\nlighter_web_streams ")
	if !found {
		return 0, errors.New("/metrics does not say how many streams there are")
	}
	line, _, _ := strings.Cut(rest, "\n")
	return strconv.Atoi(line)
}
