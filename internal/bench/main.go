// Command bench measures lighter beside its peers, in the same run on the same
// machine: each of ours alternates with the peer's, and medians are compared.
//
//	go run ./internal/bench [-n 5] [-run REGEXP] [-builds 1000000]
//
// The result is a Markdown table. Machines are noisy: the ratio is what counts.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"regexp"
	"slices"
	"time"
)

// section is one group of measurements.
type section struct {
	name string
	run  func(ctx context.Context, b *bench) error
}

var sections = []section{
	{"tar", benchTar},
	{"ssh", benchSSH},
	{"ledger", benchLedger},
	{"million", benchMillion},
	{"submission", benchSubmission},
	{"builds", benchFarm},
	{"memory", benchMemory},
}

// bench is one run of the program.
type bench struct {
	runs   int
	builds int    // in the section "million"
	folder string // for files; deleted in the end
	rows   []row
}

// row is a line of the result.
type row struct {
	what, ours, peer, ratio string
}

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run() error {
	n := flag.Int("n", 5, "measurements of each kind")
	only := flag.String("run", "", "sections to run, a regular expression")
	folder := flag.String("dir", "", "folder for files (default a temporary one)")
	builds := flag.Int("builds", 1_000_000, "builds in the ledger of the section \"million\"; it takes about 2 KB for each, and twice that while it prunes")
	opened := flag.String("million-start", "", "open this ledger, and say what it takes (for the section \"million\")")
	flag.Parse()
	if *opened != "" {
		return startOnce(*opened)
	}
	if *builds < 10_000 {
		return fmt.Errorf("-builds %d: want at least 10000", *builds)
	}
	wanted, err := regexp.Compile(*only)
	if err != nil {
		return fmt.Errorf("-run: %w", err)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	b := &bench{runs: *n, builds: *builds}
	if b.folder, err = os.MkdirTemp(*folder, "lighter-bench-"); err != nil {
		return err
	}
	defer os.RemoveAll(b.folder)
	for _, s := range sections {
		if !wanted.MatchString(s.name) {
			continue
		}
		if err := s.run(ctx, b); err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
	}
	fmt.Println("| what | lighter | peer | lighter's speed / peer's |")
	fmt.Println("|---|---|---|---|")
	for _, r := range b.rows {
		fmt.Printf("| %s | %s | %s | %s |\n", r.what, r.ours, r.peer, r.ratio)
	}
	return nil
}

// compare measures ours and the peer in turn, and adds a row with the medians. Either
// may take what it needs to prepare before it returns the function that is timed.
func (b *bench) compare(what string, ours, peer func() (func() error, error)) error {
	times := [2][]time.Duration{}
	for i := range b.runs + 1 {
		for which, prepare := range []func() (func() error, error){ours, peer} {
			timed, err := prepare()
			if err != nil {
				return fmt.Errorf("%s: %w", what, err)
			}
			start := time.Now()
			if err := timed(); err != nil {
				return fmt.Errorf("%s: %w", what, err)
			}
			if i > 0 { // the first one warms up
				times[which] = append(times[which], time.Since(start))
			}
		}
	}
	a, p := median(times[0]), median(times[1])
	b.rows = append(b.rows, row{what, seconds(a), seconds(p), fmt.Sprintf("%.2f", p.Seconds()/a.Seconds())})
	return nil
}

func median(d []time.Duration) time.Duration {
	slices.Sort(d)
	return d[len(d)/2]
}

func seconds(d time.Duration) string { return fmt.Sprintf("%.3f s", d.Seconds()) }
