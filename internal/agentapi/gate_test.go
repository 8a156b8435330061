package agentapi

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"math"
	"slices"
	"strconv"
	"strings"
	"testing"

	"lighter/internal/api"
	"lighter/store"
)

// TestFailureKinds lets every way in which a derivation fails through, as package store lists them.
func TestFailureKinds(t *testing.T) {
	file, err := parser.ParseFile(token.NewFileSet(), "../../store/store.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	ast.Inspect(file, func(n ast.Node) bool {
		spec, ok := n.(*ast.ValueSpec)
		if !ok {
			return true
		}
		if kind, ok := spec.Type.(*ast.Ident); !ok || kind.Name != "BuildFailure" {
			return true
		}
		literal, ok := spec.Values[0].(*ast.BasicLit)
		if !ok {
			t.Fatalf("%s is no literal", spec.Names[0])
		}
		value, err := strconv.Unquote(literal.Value)
		if err != nil {
			t.Fatal(err)
		}
		found++
		if err := checkFailure(&api.Failure{Culprit: api.CulpritDerivation, Kind: value}); err != nil {
			t.Errorf("%s: %v", spec.Names[0], err)
		}
		return true
	})
	if found < 10 {
		t.Errorf("found %d kinds", found)
	}
	for culprit, want := range map[api.Culprit]bool{api.CulpritMachine: true, api.CulpritDerivation: false} {
		if err := checkFailure(&api.Failure{Culprit: culprit, Kind: api.KindUnable}); (err == nil) != want {
			t.Errorf("%s that is unable: %v", culprit, err)
		}
	}
	for _, kind := range []string{api.KindDependency, api.KindFault, "exotic"} {
		if slices.Contains(failureKinds, kind) || checkFailure(&api.Failure{Culprit: api.CulpritMachine, Kind: kind}) == nil {
			t.Errorf("an agent may say %q", kind)
		}
	}
}

// TestMeasured believes what a build can have used, and nothing else.
func TestMeasured(t *testing.T) {
	good := store.Measured{CPU: 1.5, PeakMemory: 1 << 40, Disk: 1, MemoryLimit: 1 << 41, Method: store.MeasuredCgroup}
	for name, test := range map[string]struct {
		change func(m *store.Measured)
		want   string
	}{
		"all is well":    {func(*store.Measured) {}, ""},
		"nothing":        {func(m *store.Measured) { *m = store.Measured{} }, ""},
		"negative CPU":   {func(m *store.Measured) { m.CPU = -0.1 }, "cpu: -0.1 is out of range"},
		"endless CPU":    {func(m *store.Measured) { m.CPU = 1e300 }, "cpu: 1e+300 is out of range"},
		"no number":      {func(m *store.Measured) { m.CPU = math.NaN() }, "cpu: NaN is out of range"},
		"negative peak":  {func(m *store.Measured) { m.PeakMemory = -1 }, "peakMemory: -1 is out of range"},
		"great peak":     {func(m *store.Measured) { m.PeakMemory = math.MaxInt64 }, "peakMemory: 9.22"},
		"negative disk":  {func(m *store.Measured) { m.Disk = -1 }, "disk: -1 is out of range"},
		"great disk":     {func(m *store.Measured) { m.Disk = math.MaxInt64 }, "disk: 9.22"},
		"negative limit": {func(m *store.Measured) { m.MemoryLimit = -1 }, "memoryLimit: -1 is out of range"},
		"other method":   {func(m *store.Measured) { m.Method = "guess" }, `"guess" is not a method`},
	} {
		t.Run(name, func(t *testing.T) {
			m := good
			test.change(&m)
			s := BuildStatus{ID: "b", Attempt: 1, Derivation: drv, State: Canceled, Measured: &m}
			err := s.check(&Asked{ID: "b"})
			if got := fmt.Sprint(err); (test.want == "") != (err == nil) || !strings.Contains(got, test.want) && err != nil {
				t.Errorf("got %v, want %q", err, test.want)
			}
		})
	}
	m := good
	m.Unmeasured = "memory: \x1b[2Jno" + strings.Repeat("o", 1<<20)
	s := BuildStatus{ID: "b", Attempt: 1, Derivation: drv, State: Canceled, Measured: &m}
	if err := s.check(&Asked{ID: "b"}); err != nil || strings.ContainsFunc(m.Unmeasured, dangerous) || len(m.Unmeasured) > api.MaxProblem {
		t.Errorf("got %v, %d bytes: %.40q", err, len(m.Unmeasured), m.Unmeasured)
	}
	s.State = Running
	if err := s.check(&Asked{ID: "b"}); err != nil || s.Measured != nil {
		t.Errorf("a build that runs has used %v (%v)", s.Measured, err)
	}
	if err := (&Machine{Protocol: Protocol, StoreDir: store.DefaultDir, OwnLoad: -1}).check(); err == nil {
		t.Error("an own load may be negative")
	}
}
