package catalogue_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"iter"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"lighter/internal/catalogue"
	"lighter/internal/catalogue/cataloguetest"
	"lighter/internal/evaluate"
	"lighter/internal/testkit"
	"lighter/store"
)

func open(t testing.TB, dir string) *catalogue.Catalogue {
	t.Helper()
	c, err := catalogue.Open(dir, catalogue.Options{MinFree: -1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return c
}

func view(t testing.TB, c *catalogue.Catalogue) *catalogue.View {
	t.Helper()
	v, err := c.View()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { v.Close() })
	return v
}

func of(list []evaluate.Package) iter.Seq2[*evaluate.Package, error] {
	return func(yield func(*evaluate.Package, error) bool) {
		for _, p := range list {
			if !yield(&p, nil) {
				return
			}
		}
	}
}

func source(branch, commit string) catalogue.Source {
	return catalogue.Source{Repository: "guix", Branch: branch, Commit: commit, Date: time.Unix(1e9, 0)}
}

func record(t testing.TB, c *catalogue.Catalogue, s catalogue.Source, list ...evaluate.Package) catalogue.Recorded {
	t.Helper()
	done, err := c.Record(t.Context(), s, of(list))
	if err != nil {
		t.Fatal(err)
	}
	return done
}

func hello(version, seed string) evaluate.Package {
	return evaluate.Package{
		Name: "hello", Version: version, System: "x86_64-linux", Synopsis: "Say hello",
		Derivation: cataloguetest.Path("hello-"+version+".drv", seed),
		Outputs:    map[string]store.Path{"out": cataloguetest.Path("hello-"+version, seed)},
	}
}

func all[T any](t testing.TB, seq iter.Seq2[T, error]) (list []T) {
	t.Helper()
	for one, err := range seq {
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, one)
	}
	return list
}

func TestRecord(t *testing.T) {
	testkit.CheckLeaks(t)
	dir := filepath.Join(t.TempDir(), "catalogue")
	c := open(t, dir)
	broken := evaluate.Package{Name: "broken", Version: "1", System: "x86_64-linux", Error: "unbound variable: x"}
	first, second := cataloguetest.Commit(1), cataloguetest.Commit(2)
	done := record(t, c, source("master", first), hello("1", "a"), broken)
	if done.New != 2 || done.NewDerivations != 1 || done.Revision.Errors != 1 {
		t.Errorf("the first revision: %+v", done)
	}
	before := view(t, c)
	done = record(t, c, source("master", second), hello("2", "b"), broken)
	if done.New != 1 || done.Gone != 1 || done.Changed != 0 || done.NewDerivations != 1 || done.GoneDerivations != 1 {
		t.Errorf("the second revision: %+v", done)
	}
	if _, err := before.Revision(second); !errors.Is(err, catalogue.ErrNotFound) {
		t.Errorf("a view shows what came later: %v", err)
	}
	v := view(t, c)
	branch, err := v.Branch(1, "master")
	if err != nil {
		t.Fatal(err)
	}
	newest, err := v.Newest(branch)
	if err != nil || newest.Commit != second {
		t.Errorf("newest: %+v, %v", newest, err)
	}
	old, err := v.Revision(first)
	if err != nil {
		t.Fatal(err)
	}
	got := all(t, v.Packages(old, ""))
	if len(got) != 2 || got[0].Name != "broken" || got[0].Variants[0].Error != broken.Error || got[1].Version != "1" {
		t.Errorf("packages of the first revision: %+v", got)
	}
	if text, err := v.Text(got[1]); err != nil || text.Synopsis != "Say hello" {
		t.Errorf("%+v, %v", text, err)
	}
	history := all(t, v.History(branch, "hello"))
	if len(history) != 2 || history[0].First.Commit != first || history[0].Last.Commit != first || history[1].Last.Commit != second {
		t.Errorf("history: %+v", history)
	}
}

// What was recorded is there after opening again, and one process has a catalogue open.
func TestOpenAgain(t *testing.T) {
	dir := t.TempDir()
	c := open(t, dir)
	record(t, c, source("master", cataloguetest.Commit(1)), hello("1", "a"))
	state := func(c *catalogue.Catalogue) string {
		v := view(t, c)
		s, err := v.State()
		if err != nil {
			t.Fatal(err)
		}
		v.Close()
		return s
	}
	was := state(c)
	if _, err := catalogue.Open(dir, catalogue.Options{}); err == nil {
		t.Error("it was opened twice")
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	c = open(t, dir)
	if now := state(c); now != was {
		t.Errorf("state %q after opening again, was %q", now, was)
	}
	record(t, c, source("master", cataloguetest.Commit(2)), hello("1", "a"))
	if now := state(c); now == was {
		t.Error("a revision does not change the state")
	}
}

// A commit that is recorded again takes the place of what was recorded first.
func TestRecordAgain(t *testing.T) {
	c := open(t, t.TempDir())
	one, two := cataloguetest.Commit(1), cataloguetest.Commit(2)
	record(t, c, source("master", one), hello("1", "a"))
	record(t, c, source("master", two), hello("2", "b"))
	record(t, c, source("master", one), hello("1", "c"))
	v := view(t, c)
	branch, _ := v.Branch(1, "master")
	var commits []string
	for _, r := range all(t, v.Revisions(branch)) {
		commits = append(commits, r.Commit)
	}
	if diff := cmp.Diff(commits, []string{one, two}); diff != "" {
		t.Errorf("(-got +want):\n%s", diff)
	}
	r, err := v.Revision(one)
	if err != nil {
		t.Fatal(err)
	}
	got := all(t, v.Derivations(r, ""))
	if len(got) != 1 || got[0].Path != hello("1", "c").Derivation {
		t.Errorf("derivations %+v", got)
	}
}

func TestInvalid(t *testing.T) {
	c := open(t, t.TempDir())
	good, commit := hello("1", "a"), cataloguetest.Commit(1)
	with := func(change func(*evaluate.Package)) []evaluate.Package {
		p := good
		change(&p)
		return []evaluate.Package{good, p}
	}
	for name, test := range map[string]struct {
		source catalogue.Source
		list   []evaluate.Package
		want   string
	}{
		"no packages":      {source("master", commit), nil, "no packages"},
		"no branch":        {source("", commit), []evaluate.Package{good}, "a branch"},
		"short commit":     {source("master", "abc"), []evaluate.Package{good}, "40 hexadecimal digits"},
		"branch of lines":  {source("a\nb", commit), []evaluate.Package{good}, "in one line"},
		"no name":          {source("master", commit), with(func(p *evaluate.Package) { p.Name = "" }), "no name"},
		"NUL in name":      {source("master", commit), with(func(p *evaluate.Package) { p.Name = "a\x00b" }), "in one line"},
		"long version":     {source("master", commit), with(func(p *evaluate.Package) { p.Version = strings.Repeat("1", 256) }), "at most 255"},
		"no system":        {source("master", commit), with(func(p *evaluate.Package) { p.System = "" }), "no system"},
		"nothing":          {source("master", commit), with(func(p *evaluate.Package) { p.Derivation = "" }), "neither"},
		"not a derivation": {source("master", commit), with(func(p *evaluate.Package) { p.Derivation = p.Outputs["out"] }), "is not a derivation"},
		"not a store path": {source("master", commit), with(func(p *evaluate.Package) { p.Derivation = "/etc/x.drv" }), "store path"},
		"output's path":    {source("master", commit), with(func(p *evaluate.Package) { p.Outputs = map[string]store.Path{"out": "/etc"} }), "output"},
		"many derivations": {source("master", commit), many(1001), "more than 1000 derivations"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := c.Record(t.Context(), test.source, of(test.list))
			if !errors.Is(err, catalogue.ErrInvalid) || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want %q", err, test.want)
			}
		})
	}
	v := view(t, c)
	if got, err := v.Repositories(); len(got) != 0 || err != nil {
		t.Errorf("something was recorded: %v, %v", got, err)
	}
}

func many(n int) (list []evaluate.Package) {
	for i := range n {
		list = append(list, hello("1", fmt.Sprint(i)))
	}
	return list
}

// An evaluation that ends with an error, or is canceled, leaves nothing.
func TestInterrupted(t *testing.T) {
	c := open(t, t.TempDir())
	cause := errors.New("the evaluation ended")
	_, err := c.Record(t.Context(), source("master", cataloguetest.Commit(1)), func(yield func(*evaluate.Package, error) bool) {
		_ = yield(new(hello("1", "a")), nil) && yield(nil, cause)
	})
	if !errors.Is(err, cause) {
		t.Errorf("got %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	_, err = c.Record(ctx, source("master", cataloguetest.Commit(1)), func(yield func(*evaluate.Package, error) bool) {
		cancel()
		yield(new(hello("1", "a")), nil)
	})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	if got, err := view(t, c).Repositories(); len(got) != 0 || err != nil {
		t.Errorf("something was recorded: %v, %v", got, err)
	}
}

func TestDiskFull(t *testing.T) {
	c, err := catalogue.Open(t.TempDir(), catalogue.Options{MinFree: 1 << 60})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_, err = c.Record(t.Context(), source("master", cataloguetest.Commit(1)), of([]evaluate.Package{hello("1", "a")}))
	if !errors.Is(err, catalogue.ErrDiskFull) {
		t.Errorf("got %v", err)
	}
}

func TestClosed(t *testing.T) {
	c := open(t, t.TempDir())
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := c.View(); !errors.Is(err, catalogue.ErrClosed) {
		t.Errorf("got %v", err)
	}
}

// A folder with something else in it, or of another format, is not touched.
func TestOtherFormat(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "CURRENT"), []byte("nonsense\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := catalogue.Open(dir, catalogue.Options{}); err == nil {
		t.Error("nonsense was opened")
	}
}

// model is a catalogue as plain maps: by branch, revisions, and by those names, versions and variants.
type model map[string][]modelRevision

type modelRevision struct {
	commit   string
	packages map[string]map[string]string // by "name@version", then by derivation or error: where
}

func modelOf(commit string, list []evaluate.Package) modelRevision {
	m := modelRevision{commit, make(map[string]map[string]string)}
	for _, p := range list {
		id := p.Name + "@" + p.Version
		if m.packages[id] == nil {
			m.packages[id] = make(map[string]string)
		}
		m.packages[id][p.System+"/"+p.Target+"/"+string(p.Derivation)+p.Error] = fmt.Sprint(p.Outputs, p.Replacement)
	}
	return m
}

// Whatever is recorded and dropped, in whatever order, each revision that is kept reads as it was recorded.
func TestModel(t *testing.T) {
	for seed := range uint64(8) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			random := rand.New(rand.NewPCG(seed, 7))
			c, m := open(t, t.TempDir()), make(model)
			for step := range 40 {
				branch := []string{"master", "a/b"}[random.IntN(2)]
				if len(m[branch]) > 0 && random.IntN(6) == 0 {
					keep := 1 + random.IntN(4)
					v := view(t, c)
					b := branchNamed(t, v, branch)
					v.Close()
					if _, err := c.Drop(t.Context(), b.ID, keep); err != nil {
						t.Fatal(err)
					}
					m[branch] = m[branch][max(0, len(m[branch])-keep):]
				} else {
					list, commit := someOf(random), cataloguetest.Commit(step)
					record(t, c, source(branch, commit), list...)
					m[branch] = append(m[branch], modelOf(commit, list))
				}
				compare(t, c, m)
				if t.Failed() {
					t.Fatalf("after step %d", step)
				}
			}
		})
	}
}

func branchNamed(t *testing.T, v *catalogue.View, name string) catalogue.Branch {
	t.Helper()
	b, err := v.Branch(1, name)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// someOf makes a revision of few names, versions and derivations, so that all things happen.
func someOf(random *rand.Rand) (list []evaluate.Package) {
	for range 1 + random.IntN(30) {
		p := evaluate.Package{
			Name: []string{"a", "a-b", "b", "c"}[random.IntN(4)], Version: []string{"", "1", "1-2", "2"}[random.IntN(4)],
			System: []string{"x86_64-linux", "aarch64-linux"}[random.IntN(2)], Target: []string{"", "riscv64-linux-gnu"}[random.IntN(2)],
			Synopsis: fmt.Sprint(random.IntN(3)), Replacement: random.IntN(4) == 0,
		}
		p.Location.Line = random.IntN(2)
		if random.IntN(5) == 0 {
			p.Error = fmt.Sprint("error ", random.IntN(2))
		} else {
			// Those of other packages are others, as in a store.
			p.Derivation = cataloguetest.Path("x.drv", p.Name+p.Version+p.System+p.Target+fmt.Sprint(random.IntN(3)))
		}
		if slices.ContainsFunc(list, func(o evaluate.Package) bool {
			return o.Name == p.Name && o.Version == p.Version && o.System == p.System && o.Target == p.Target && o.Derivation == p.Derivation && o.Error == p.Error
		}) {
			continue
		}
		list = append(list, p)
	}
	return list
}

func compare(t *testing.T, c *catalogue.Catalogue, m model) {
	t.Helper()
	v := view(t, c)
	defer v.Close()
	for branch, revisions := range m {
		kept := all(t, v.Revisions(branchNamed(t, v, branch)))
		slices.Reverse(kept)
		if len(kept) != len(revisions) {
			t.Errorf("branch %s has %d revisions, want %d", branch, len(kept), len(revisions))
			return
		}
		for i, want := range revisions {
			if kept[i].Commit != want.commit {
				t.Errorf("revision %d of %s is %s, want %s", i, branch, kept[i].Commit, want.commit)
			}
			got := make(map[string]map[string]string)
			paths := make(map[store.Path]bool)
			for _, p := range all(t, v.Packages(kept[i], "")) {
				id := make(map[string]string)
				for _, one := range p.Variants {
					id[one.System+"/"+one.Target+"/"+string(one.Derivation)+one.Error] = fmt.Sprint(map[string]store.Path(nil), one.Replacement)
					if one.Derivation != "" {
						paths[one.Derivation] = true
					}
				}
				got[p.Name+"@"+p.Version] = id
				if _, err := v.Text(p); err != nil {
					t.Error(err)
				}
			}
			if diff := cmp.Diff(got, want.packages); diff != "" {
				t.Errorf("revision %d of %s (-got +want):\n%s", i, branch, diff)
			}
			for _, d := range all(t, v.Derivations(kept[i], "")) {
				if !paths[d.Path] {
					t.Errorf("derivation %s is of no package, or there twice", d.Path)
				}
				delete(paths, d.Path)
			}
			if len(paths) != 0 {
				t.Errorf("derivations are not listed: %v", paths)
			}
		}
	}
	problems, err := c.Check()
	if err != nil || len(problems) != 0 {
		t.Errorf("check: %v, %v", problems, err)
	}
}

// The pages of derivations, one at a time, are the whole list.
func TestPages(t *testing.T) {
	c := open(t, t.TempDir())
	g := cataloguetest.Generator{Packages: 50, Systems: []string{"x86_64-linux", "aarch64-linux"}, Changes: 5}
	for range 5 {
		if _, err := c.Record(t.Context(), g.Source(), g.Next()); err != nil {
			t.Fatal(err)
		}
	}
	v := view(t, c)
	r, err := v.Revision(cataloguetest.Commit(2))
	if err != nil {
		t.Fatal(err)
	}
	want := all(t, v.Derivations(r, ""))
	if len(want) != 100 {
		t.Errorf("%d derivations, want 100", len(want))
	}
	var got []catalogue.Derivation
	for after := store.Path(""); ; after = got[len(got)-1].Path {
		before := len(got)
		for d, err := range v.Derivations(r, after) {
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, d)
			break
		}
		if len(got) == before {
			break
		}
	}
	if diff := cmp.Diff(got, want); diff != "" {
		t.Errorf("(-got +want):\n%s", diff)
	}
	names := all(t, v.Packages(r, "package-00048"))
	if len(names) == 0 || names[0].Name <= "package-00048" {
		t.Errorf("packages after one: %v", names)
	}
}

var (
	benchPackages  = flag.Int("packages", 1000, "packages of a revision, in benchmarks")
	benchRevisions = flag.Int("revisions", 30, "revisions, in benchmarks")
	benchSystems   = flag.Int("systems", 1, "systems, in benchmarks")
	benchChanges   = flag.Int("changes", 300, "changes from revision to revision, in benchmarks")
)

// BenchmarkCatalogue says what revisions take and how long first pages last:
//
//	go test ./internal/catalogue -run - -bench Catalogue -packages 30000 -revisions 300
func BenchmarkCatalogue(b *testing.B) {
	c := open(b, b.TempDir())
	systems := []string{"x86_64-linux", "aarch64-linux", "i686-linux", "armhf-linux"}[:*benchSystems]
	g := cataloguetest.Generator{Packages: *benchPackages, Systems: systems, Changes: min(*benchChanges, *benchPackages/4)}
	size := func() int64 {
		n, err := c.Size()
		if err != nil {
			b.Fatal(err)
		}
		return n
	}
	var first int64
	var slowest, sum time.Duration
	for i := range *benchRevisions {
		began := time.Now()
		if _, err := c.Record(b.Context(), g.Source(), g.Next()); err != nil {
			b.Fatal(err)
		}
		took := time.Since(began)
		sum, slowest = sum+took, max(slowest, took)
		if i == 0 {
			first = size()
		}
	}
	var memory runtime.MemStats
	runtime.ReadMemStats(&memory)
	b.Logf("%d revisions of %d packages for %d systems: the first %d bytes, each other %d; recorded in %s each, the slowest in %s; %d MiB from the system",
		*benchRevisions, *benchPackages, *benchSystems, first, (size()-first)/int64(max(1, *benchRevisions-1)),
		sum/time.Duration(*benchRevisions), slowest, memory.Sys>>20)
	for _, which := range []int{0, *benchRevisions / 2, *benchRevisions - 1} {
		v := view(b, c)
		r, err := v.Revision(cataloguetest.Commit(which))
		if err != nil {
			b.Fatal(err)
		}
		b.Run(fmt.Sprintf("packages/%d", which), func(b *testing.B) {
			for b.Loop() {
				first := 0
				for p, err := range v.Packages(r, "") {
					if _, textErr := v.Text(p); err != nil || textErr != nil {
						b.Fatal(err, textErr)
					}
					if first++; first == 100 {
						break
					}
				}
			}
		})
		b.Run(fmt.Sprintf("derivations/%d", which), func(b *testing.B) {
			for b.Loop() {
				first := 0
				for _, err := range v.Derivations(r, "") {
					if first++; err != nil || first == 5000 {
						break
					}
				}
			}
		})
		b.Run(fmt.Sprintf("all/%d", which), func(b *testing.B) {
			for b.Loop() {
				for range v.Derivations(r, "") {
				}
			}
		})
		v.Close()
	}
	b.Run("check", func(b *testing.B) {
		for b.Loop() {
			if problems, err := c.Check(); err != nil || len(problems) > 0 {
				b.Fatal(problems, err)
			}
		}
	})
}
