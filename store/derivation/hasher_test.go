package derivation

import (
	"errors"
	"strings"
	"sync"
	"testing"

	"lighter/store"
)

// TestInputsThatCountAsOne shows which of several inputs with one hash counts:
// the last by path, as in guix-daemon.
func TestInputsThatCountAsOne(t *testing.T) {
	const first, last = store.Path("/gnu/store/" + hashA + "-same.drv"), store.Path("/gnu/store/" + hashB + "-same.drv")
	same := &Derivation{Outputs: []Output{{Name: "out"}, {Name: "lib"}}}
	resolve := func(store.Path) (*Derivation, error) { return same, nil }
	masked := func(inputs ...Input) store.Hash {
		h, err := NewHasher(store.DefaultDir, resolve).Masked(&Derivation{Outputs: []Output{{Name: "out"}}, Inputs: inputs})
		if err != nil {
			t.Fatal(err)
		}
		return h
	}
	lib := masked(Input{last, []string{"lib"}})
	if got := masked(Input{last, []string{"lib"}}, Input{first, []string{"out"}}); got != lib {
		t.Error("the first of two inputs with one hash counts")
	}
	if got := masked(Input{first, []string{"lib"}}, Input{last, []string{"out"}}); got == lib {
		t.Error("the first of two inputs with one hash counts")
	}
}

func TestHasherCycle(t *testing.T) {
	a, b := store.Path("/gnu/store/"+hashA+"-a.drv"), store.Path("/gnu/store/"+hashB+"-b.drv")
	all := map[store.Path]*Derivation{
		a: {Outputs: []Output{{Name: "out"}}, Inputs: []Input{{b, []string{"out"}}}},
		b: {Outputs: []Output{{Name: "out"}}, Inputs: []Input{{a, []string{"out"}}}},
	}
	h := NewHasher(store.DefaultDir, resolver(all))
	if _, err := h.moduloOf(a, make(open)); err == nil || !strings.Contains(err.Error(), "its own input") {
		t.Errorf("moduloOf: %v", err)
	}
	if err := h.Add(a, all[a]); err == nil || !strings.Contains(err.Error(), "its own input") {
		t.Errorf("Add: %v", err)
	}
}

func TestHasherMissingInput(t *testing.T) {
	gone := store.Path("/gnu/store/" + hashA + "-gone.drv")
	d := &Derivation{Outputs: []Output{{Name: "out"}}, Inputs: []Input{{gone, []string{"out"}}}}
	err := d.Fill(store.DefaultDir, "x", resolver(nil))
	if !errors.Is(err, store.ErrNotValid) || !strings.Contains(err.Error(), "derivation x: ") {
		t.Errorf("Fill: %v, want ErrNotValid with the derivation's name", err)
	}
	if d.Outputs[0].Path != "" || d.Env != nil {
		t.Error("a Fill that failed left something behind")
	}
}

// TestHasherAsksOnce shows that every input is resolved a single time, however
// many derivations use it. Each layer uses all of the layer below it.
func TestHasherAsksOnce(t *testing.T) {
	all := make(map[store.Path]*Derivation)
	var below []Input
	for layer := range 40 {
		var inputs []Input
		for _, name := range []string{"a", "b", "c"} {
			d := &Derivation{Outputs: []Output{{Name: "out"}}, Inputs: below, Args: []string{name}}
			p, err := d.Path(store.DefaultDir, name+strings.Repeat("x", layer))
			if err != nil {
				t.Fatal(err)
			}
			all[p] = d
			inputs = append(inputs, Input{p, []string{"out"}})
		}
		below = inputs
	}
	asked := make(map[store.Path]int)
	h := NewHasher(store.DefaultDir, func(p store.Path) (*Derivation, error) {
		asked[p]++
		return all[p], nil
	})
	if err := h.Fill("top", &Derivation{Outputs: []Output{{Name: "out"}}, Inputs: below}); err != nil {
		t.Fatal(err)
	}
	for p, n := range asked {
		if n != 1 {
			t.Errorf("%s was resolved %d times", p, n)
		}
	}
	if len(asked) != len(all) {
		t.Errorf("%d of %d derivations were resolved", len(asked), len(all))
	}
}

func TestHasherConcurrently(t *testing.T) {
	all := guixDerivations(t)
	h := NewHasher(store.DefaultDir, resolver(all))
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for p, d := range all {
				if err := h.Check(NameOf(p), d); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
}

func TestCheckRefuses(t *testing.T) {
	fresh := func() *Derivation {
		d := &Derivation{Outputs: []Output{{Name: "out"}}, System: "x86_64-linux"}
		if err := d.Fill(store.DefaultDir, "x", resolver(nil)); err != nil {
			t.Fatal(err)
		}
		return d
	}
	for _, tt := range []struct {
		name   string
		damage func(*Derivation)
		want   string
	}{
		{"other contents", func(d *Derivation) { d.System = "i686-linux" }, `output "out" has the path`},
		{"other path", func(d *Derivation) { d.Outputs[0].Path = "/gnu/store/" + hashA + "-x" }, "but its inputs give /gnu/store/"},
		{"variable missing", func(d *Derivation) { d.Env = nil }, "the variable of output"},
		{"other variable", func(d *Derivation) { d.Env[0].Value = "/gnu/store/" + hashA + "-x" }, "the variable of output"},
		{"no outputs", func(d *Derivation) { d.Outputs = nil }, "no outputs"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d := fresh()
			if err := d.Check(store.DefaultDir, "x", resolver(nil)); err != nil {
				t.Fatal(err)
			}
			tt.damage(d)
			err := d.Check(store.DefaultDir, "x", resolver(nil))
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v, want one with %q", err, tt.want)
			}
		})
	}
}
