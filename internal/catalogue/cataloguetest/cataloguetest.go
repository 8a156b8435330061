// Package cataloguetest makes up revisions for tests of what a catalogue keeps.
package cataloguetest

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"iter"
	"math/rand/v2"
	"strings"
	"time"

	"lighter/internal/catalogue"
	"lighter/internal/evaluate"
	"lighter/store"
)

// Generator makes successive revisions of a branch, always the same ones.
type Generator struct {
	Packages int      // of the first revision
	Systems  []string // of each package
	// Changes is how many packages change from revision to revision; as many besides only move in
	// their files. One in ten of them gets a new version, one is new, one is gone.
	Changes int

	random   *rand.Rand
	revision int
	all      []made
}

// made is a package that was made up.
type made struct {
	number, release, change, line int
}

// Source returns what the next revision is of.
func (g *Generator) Source() catalogue.Source {
	return catalogue.Source{
		Repository: "guix", URL: "https://git.example.org/guix.git", Branch: "master",
		Commit: Commit(g.revision), Date: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC).Add(time.Duration(g.revision) * time.Hour),
	}
}

// Commit returns the commit of a revision, by its number from 0.
func Commit(n int) string {
	sum := sha256.Sum256(fmt.Append(nil, "commit ", n))
	return hex.EncodeToString(sum[:20])
}

// Next returns the packages of the next revision.
func (g *Generator) Next() iter.Seq2[*evaluate.Package, error] {
	if g.random == nil {
		g.random = rand.New(rand.NewPCG(1, 2))
		for n := range g.Packages {
			g.all = append(g.all, made{number: n, line: 10 + n%100*30})
		}
	} else {
		g.step()
	}
	g.revision++
	all := append([]made(nil), g.all...)
	return func(yield func(*evaluate.Package, error) bool) {
		for _, system := range g.Systems {
			for i := range all {
				if !yield(all[i].on(system), nil) {
					return
				}
			}
		}
	}
}

func (g *Generator) step() {
	for range g.Changes {
		p := &g.all[g.random.IntN(len(g.all))]
		p.change++
		if g.random.IntN(10) == 0 {
			p.release++
		}
		g.all[g.random.IntN(len(g.all))].line++
	}
	if g.Changes > 0 {
		gone := g.random.IntN(len(g.all))
		g.all = append(g.all[:gone], g.all[gone+1:]...)
		g.all = append(g.all, made{number: g.Packages + g.revision, line: 10})
	}
}

func (m made) on(system string) *evaluate.Package {
	name, version := fmt.Sprintf("package-%05d", m.number), fmt.Sprintf("1.%d", m.release)
	p := &evaluate.Package{
		Name: name, Version: version, System: system,
		Location: evaluate.Location{File: fmt.Sprintf("gnu/packages/file-%d.scm", m.number/100), Line: m.line, Column: 2},
		Synopsis: fmt.Sprintf("Make up the things of kind %d", m.number), HomePage: "https://www.example.org/" + name,
		Description: fmt.Sprintf("This package makes up things of kind %d.  ", m.number) + words(m.number), Licenses: []string{"GPL 3+"},
	}
	if m.number%1000 == 999 {
		p.Error = "unsupported system: " + system
		return p
	}
	p.Derivation = Path(name+"-"+version+".drv", fmt.Sprint(system, m.number, m.release, m.change))
	p.Outputs = map[string]store.Path{"out": Path(name+"-"+version, fmt.Sprint("out", system, m.number, m.release, m.change))}
	return p
}

// words makes a text that does not shrink to nothing.
func words(n int) string {
	r := rand.New(rand.NewPCG(3, uint64(n))) // #nosec G115 -- not negative
	list := strings.Fields("a library for reading and writing files of many kinds it has bindings to other languages fast small portable command line tool that shows what is inside protocols servers clients graphs numbers text images sound")
	var b strings.Builder
	for range 40 {
		b.WriteString(list[r.IntN(len(list))])
		b.WriteByte(' ')
	}
	return b.String()
}

// Path returns a store path with a name, whose digits are of a seed.
func Path(name, seed string) store.Path {
	const digits = "0123456789abcdfghijklmnpqrsvwxyz"
	sum := sha256.Sum256([]byte(seed))
	hash := make([]byte, store.HashPartLen)
	for i := range hash {
		hash[i] = digits[sum[i]%32]
	}
	return store.Path(string(store.DefaultDir) + "/" + string(hash) + "-" + name)
}
