// Command webload measures "lighter web" over a coordinator whose ledger has a million builds: how soon each page is
// there and how large it is, and what many open streams of events cost both processes.
//
//	go run ./internal/bench/webload [-builds 1000000] [-ledger FOLDER] [-only pages]
//
// The result is Markdown. A page is asked for twice: with what the server keeps of it for a second, and without.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"time"

	"lighter/internal/api/apiclient"
	"lighter/internal/bench/made"
	"lighter/internal/ledger"
	"lighter/internal/testkit/farm"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "webload:", err)
		os.Exit(1)
	}
}

// load is one run.
type load struct {
	*farm.Farm
	made   *made.Farm
	client *apiclient.Client
	web    int    // process of "lighter web"
	url    string // of the page

	runs, streams, rate int
	span                time.Duration // of one measurement of streams
}

func run(ctx context.Context) (err error) {
	l := new(load)
	builds := flag.Int("builds", 1_000_000, "builds in the ledger")
	kept := flag.String("ledger", "", "a `FOLDER` that keeps the ledger for the next run; it takes about 1 KB for each build (default none)")
	only := flag.String("only", "", "pages or streams; both if it is empty")
	folder := flag.String("dir", "", "folder for files (default a temporary one)")
	flag.IntVar(&l.runs, "n", 5, "measurements of each page")
	flag.IntVar(&l.streams, "streams", 500, "open streams of events")
	flag.IntVar(&l.rate, "rate", 1000, "events a second")
	flag.DurationVar(&l.span, "span", 15*time.Second, "for how long streams are measured")
	flag.Parse()
	dir, err := os.MkdirTemp(*folder, "lighter-webload-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	// The last of the builds were submitted a little more than the two hours ago that a build takes.
	l.made = made.New(*builds, time.Now().Add(-time.Duration(*builds)*time.Second-2*time.Hour))
	if l.Farm, err = farm.New(ctx, dir, "build/lighter"); err != nil {
		return err
	}
	if err := l.fill(ctx, *kept); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.Stop()) }()
	if err := l.start(ctx); err != nil {
		return err
	}
	if *only != "streams" {
		if err := l.pages(ctx); err != nil {
			return err
		}
	}
	if *only != "pages" {
		return l.measureStreams(ctx)
	}
	return nil
}

// fill makes the ledger, or copies one that was made before.
func (l *load) fill(ctx context.Context, kept string) error {
	dir := filepath.Join(l.State, "ledger")
	note := filepath.Join(kept, "begin") // when its builds begin, so that they are the same ones
	if text, err := os.ReadFile(note); kept != "" && err == nil {
		if l.made.Begin, err = time.Parse(time.RFC3339Nano, string(text)); err != nil {
			return err
		}
		return os.CopyFS(dir, os.DirFS(filepath.Join(kept, "ledger")))
	}
	begun := time.Now()
	to, err := ledger.Open(dir, ledger.Options{})
	if err != nil {
		return err
	}
	if err := errors.Join(l.made.Fill(ctx, to), to.Close()); err != nil {
		return err
	}
	fmt.Fprintf(os.Stderr, "webload: %d builds made in %.0f s\n", l.made.Builds, time.Since(begun).Seconds())
	if kept == "" {
		return nil
	}
	return errors.Join(os.CopyFS(filepath.Join(kept, "ledger"), os.DirFS(dir)), os.WriteFile(note, []byte(l.made.Begin.Format(time.RFC3339Nano)), 0o600))
}

// start starts the coordinator, with machines that never answer, and the page.
func (l *load) start(ctx context.Context) error {
	var file strings.Builder
	for i := range made.Machines {
		fmt.Fprintf(&file, "[[machine]]\nname = \"machine%d\"\nhost = \"127.0.0.1\"\nport = 9\nuser = \"user%d\"\nparallel-builds = 4\n", i, i)
		fmt.Fprintf(&file, "systems = [\"x86_64-linux\"]\nhost-key = \"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJbbh6z0v8nBmPyYVZFqv8uoKCrZ4wT1gGyd2r9wNYBF\"\n")
	}
	if err := l.Start(ctx, []byte(file.String())); err != nil {
		return err
	}
	l.client = apiclient.NewClient(l.Socket())
	web := l.Lighter(ctx, "web", "--listen", "127.0.0.1:0")
	text, err := l.LaunchUntil(web, "\n")
	if err != nil {
		return err
	}
	l.web, l.url = web.Process.Pid, strings.TrimSuffix(strings.TrimSpace(string(text)), "/")
	return nil
}
