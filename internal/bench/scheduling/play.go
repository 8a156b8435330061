package main

import (
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"lighter/scheduler/simulate"
)

// contender is a policy and what it knows.
type contender struct {
	name   string
	policy simulate.Policy
	knows  func(b *bench, g *simulate.Graph, seed uint64) simulate.Estimate // nil: all
	hook   bool
	change func(s *simulate.Scenario)
}

func knowsNothing(*bench, *simulate.Graph, uint64) simulate.Estimate { return simulate.Nothing() }

func knowsFirst(_ *bench, g *simulate.Graph, seed uint64) simulate.Estimate {
	return simulate.Learnt(g, 0, seed)
}

func knowsLearnt(b *bench, g *simulate.Graph, seed uint64) simulate.Estimate {
	return simulate.Learnt(g, b.runs, seed)
}

func knowsNoisy(_ *bench, g *simulate.Graph, seed uint64) simulate.Estimate {
	return simulate.Noisy(g, 3, seed)
}

// contenders are all. "first" is a first run, with what is supposed of packages never built;
// "none" does not know even that.
var contenders = []contender{
	{name: "lighter-perfect", policy: simulate.Lighter},
	{name: "lighter-learnt", policy: simulate.Lighter, knows: knowsLearnt},
	{name: "lighter-first", policy: simulate.Lighter, knows: knowsFirst},
	{name: "lighter-none", policy: simulate.Lighter, knows: knowsNothing},
	{name: "lighter-noisy", policy: simulate.Lighter, knows: knowsNoisy},
	{name: "lighter-lazy", policy: simulate.Lighter, change: func(s *simulate.Scenario) { s.LazyHome = true }},
	{name: "lighter-hook", policy: simulate.Lighter, hook: true},
	{name: "lighter-hook-learnt", policy: simulate.Lighter, hook: true, knows: knowsLearnt},
	{name: "lighter-hook-none", policy: simulate.Lighter, hook: true, knows: knowsNothing},
	{name: "guix", policy: simulate.Guix},
	{name: "nix", policy: simulate.Nix},
	{name: "guix-policy", policy: simulate.GuixPolicy},
	{name: "nix-policy", policy: simulate.NixPolicy},
	{name: "fifo", policy: simulate.FIFO},
	{name: "heft", policy: simulate.HEFT},
}

func (b *bench) contenders() (wanted []contender) {
	for _, c := range contenders {
		if b.contender.MatchString(c.name) {
			wanted = append(wanted, c)
		}
	}
	return wanted
}

func contenderOf(name string) contender {
	for _, c := range contenders {
		if c.name == name {
			return c
		}
	}
	panic("no contender " + name)
}

func (c *contender) scenario(b *bench, g *simulate.Graph, machines []simulate.Machine, seed uint64) simulate.Scenario {
	s := simulate.Scenario{Graph: g, Machines: machines, Policy: c.policy, Hook: c.hook, Seed: seed}
	if c.knows != nil {
		s.Estimate = c.knows(b, g, seed)
	}
	if c.change != nil {
		c.change(&s)
	}
	return s
}

// graphFile is the text of a graph, unpacked.
type graphFile struct{ text []byte }

func (b *bench) check() error {
	if len(b.contenders()) == 0 {
		return fmt.Errorf("-contender: there is none like that")
	}
	for _, name := range b.graphs {
		if _, err := b.file(name); err != nil {
			return err
		}
	}
	for _, name := range b.fleets {
		if simulate.Fleets()[name] == nil {
			return fmt.Errorf("-fleet %q: want a, b, c or d", name)
		}
	}
	return nil
}

// light is the graph "six" without giants.
const light = "light"

func (b *bench) file(name string) (*graphFile, error) {
	if name == light {
		name = "six"
	}
	if f := b.loaded[name]; f != nil {
		return f, nil
	}
	f, err := os.Open(filepath.Join(b.folder, name+".tsv.gz"))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	unpack, err := gzip.NewReader(f)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", f.Name(), err)
	}
	var text bytes.Buffer
	if _, err := text.ReadFrom(unpack); err != nil {
		return nil, fmt.Errorf("%s: %w", f.Name(), err)
	}
	b.loaded[name] = &graphFile{text.Bytes()}
	return b.loaded[name], nil
}

// graph returns a graph with durations and sizes of a seed.
func (b *bench) graph(name string, seed uint64) (*simulate.Graph, error) {
	f, err := b.file(name)
	if err != nil {
		return nil, err
	}
	g, err := simulate.ReadGraph(bytes.NewReader(f.text))
	if err != nil {
		return nil, err
	}
	(&simulate.Model{Seed: seed, WithoutGiants: name == light}).Apply(g)
	return g, nil
}

// each calls do with 0 to n-1, some at a time, and returns the first error.
func (b *bench) each(ctx context.Context, n int, do func(i int) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	work := make(chan int)
	var workers sync.WaitGroup
	for range min(n, b.workers) {
		workers.Go(func() {
			for i := range work {
				if err := do(i); err != nil {
					cancel(err)
				}
			}
		})
	}
	for i := 0; i < n && ctx.Err() == nil; i++ {
		select {
		case work <- i:
		case <-ctx.Done():
		}
	}
	close(work)
	workers.Wait()
	return context.Cause(ctx)
}

// table is a Markdown table.
type table struct {
	title string
	head  []string
	rows  [][]string
}

func (t *table) add(cells ...string) { t.rows = append(t.rows, cells) }

func (t *table) print() {
	fmt.Printf("\n**%s**\n\n| %s |\n|%s\n", t.title, strings.Join(t.head, " | "), strings.Repeat("---|", len(t.head)))
	for _, r := range t.rows {
		fmt.Printf("| %s |\n", strings.Join(r, " | "))
	}
}

// summary is the mean and the greatest of some numbers.
type summary struct {
	n          int
	sum, worst float64
}

func (s *summary) add(x float64) {
	s.n++
	s.sum += x
	s.worst = max(s.worst, x)
}

func (s *summary) mean() float64 { return s.sum / float64(max(1, s.n)) }
