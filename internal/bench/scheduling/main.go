// Command scheduling measures the scheduler in the simulator, beside the policies of others, on
// graphs of real packages.
//
//	go run ./internal/bench/scheduling [-quick] [-section REGEXP] [-graph NAMES] [-fleet LETTERS] [-contender REGEXP] [-seeds 5]
//
// The result is a few Markdown tables. All but the time of a round is the same in every run.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"regexp"
	"runtime"
	"strings"
	"time"
)

// section is one group of tables.
type section struct {
	name string
	run  func(ctx context.Context, b *bench) error
}

var sections = []section{
	{"ratio", ratios},
	{"waits", waits},
	{"cases", cases},
	{"random", randomSearch},
	{"shares", shares},
	{"memory", memory},
	{"ends", ends},
	{"round", rounds},
}

// bench is one run of the program.
type bench struct {
	graphs    []string
	fleets    []string
	contender *regexp.Regexp
	seeds     int
	random    int
	runs      int // earlier ones that are learnt from
	workers   int
	folder    string
	loaded    map[string]*graphFile
}

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "scheduling:", err)
		os.Exit(1)
	}
}

func run() error {
	b := &bench{loaded: make(map[string]*graphFile)}
	only := flag.String("section", "", "sections to run (ratio, waits, cases, random, shares, memory, ends, round), a regular expression")
	graphs := flag.String("graph", "all,six,light,inkscape", "graphs, separated by commas (light is six without giants)")
	fleets := flag.String("fleet", "a,b,c,d", "fleets, separated by commas")
	contender := flag.String("contender", "", "contenders, a regular expression")
	quick := flag.Bool("quick", false, "what matters most, in under two minutes on two idle cores; flags that are given still count")
	flag.IntVar(&b.seeds, "seeds", 5, "seeds of durations and sizes")
	flag.IntVar(&b.random, "random", 3000, "random graphs for each row")
	flag.IntVar(&b.runs, "learnt", 5, "earlier runs that are learnt from")
	flag.IntVar(&b.workers, "workers", runtime.GOMAXPROCS(0), "simulations at a time")
	flag.StringVar(&b.folder, "graphs", "scheduler/simulate/testdata/graphs", "folder of the graphs")
	flag.Parse()
	if flag.NArg() > 0 || b.seeds < 1 || b.random < 1 || b.runs < 1 || b.workers < 1 {
		return fmt.Errorf("unexpected argument, or a number less than 1")
	}
	if *quick {
		given := make(map[string]bool)
		flag.Visit(func(f *flag.Flag) { given[f.Name] = true })
		for name, value := range map[string]string{
			"graph": "six,all", "contender": "^(lighter-(perfect|none)|fifo)$", "seeds": "1", "random": "200", "section": "ratio|cases|random|shares|memory",
		} {
			if !given[name] {
				if err := flag.Set(name, value); err != nil {
					return err
				}
			}
		}
	}
	sectionsWanted, err := regexp.Compile(*only)
	if err != nil {
		return fmt.Errorf("-section: %w", err)
	}
	if b.contender, err = regexp.Compile(*contender); err != nil {
		return fmt.Errorf("-contender: %w", err)
	}
	b.graphs, b.fleets = strings.Split(*graphs, ","), strings.Split(*fleets, ",")
	if err := b.check(); err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	for _, s := range sections {
		if !sectionsWanted.MatchString(s.name) {
			continue
		}
		start := time.Now()
		if err := s.run(ctx, b); err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
		fmt.Fprintf(os.Stderr, "%s: %s\n", s.name, time.Since(start).Round(time.Second/10))
	}
	return nil
}
