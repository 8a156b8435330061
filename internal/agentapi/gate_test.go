package agentapi

import (
	"go/ast"
	"go/parser"
	"go/token"
	"slices"
	"strconv"
	"testing"

	"lighter/internal/api"
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
