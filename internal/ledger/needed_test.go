package ledger

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"lighter/internal/api"
	"lighter/store"
)

// TestNeeded has a build in each state, with a derivation and an output of its own, and asks
// for all of them: from a ledger in use, and from one that is only read.
func TestNeeded(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "ledger")
	item := func(n int, name string) store.Path {
		return store.Path(fmt.Sprintf("/gnu/store/%032d-%s", n, name))
	}
	l, err := Open(dir, Options{})
	if err != nil {
		t.Fatal(err)
	}
	var all, want []store.Path
	for i, state := range api.States() {
		b := build(fmt.Sprintf("00000000-0000-0000-0000-%012d", i), state)
		b.Derivation = item(i, "x.drv")
		b.OutputPaths = map[string]store.Path{"out": item(i, "x"), "dev": item(i, "x-dev")}
		apply(t, l, Change{Build: b, Event: &api.Event{Build: b.ID, State: state}})
		all = append(all, b.Derivation, b.OutputPaths["out"], b.OutputPaths["dev"])
		if !state.Final() {
			want = append(want, b.Derivation)
		}
		if !state.Final() || state == api.Succeeded {
			want = append(want, b.OutputPaths["out"], b.OutputPaths["dev"])
		}
	}
	// One that failed first, and was built afterwards.
	again := build("00000000-0000-0000-0000-0000000000ff", api.Failed)
	again.Derivation, again.OutputPaths = item(0, "x.drv"), map[string]store.Path{"out": item(0, "x")}
	apply(t, l, Change{Build: again, Event: &api.Event{Build: again.ID, State: api.Failed}})
	all = append(all, item(99, "nobody.drv"), item(99, "nobody"))

	got, err := l.Needed(t.Context(), all)
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		t.Errorf("%v (-want +got)\n%s", err, diff)
	}
	read := func() (needed []store.Path, err error) {
		err = Read(t.Context(), dir, Options{}, func(l *Ledger) (err error) {
			needed, err = l.Needed(t.Context(), all)
			return err
		})
		return needed, err
	}
	var inUse *InUseError
	if _, err := read(); !errors.As(err, &inUse) {
		t.Errorf("a ledger in use: %v", err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	got, err = read()
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		t.Errorf("only read: %v (-want +got)\n%s", err, diff)
	}
	// It can be opened afterwards, and has lost nothing.
	if l, err = Open(dir, Options{}); err != nil {
		t.Fatal(err)
	}
	check(t, l)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
}

// TestReadRefuses does not read a ledger of which files are missing, and reads none where there is none.
func TestReadRefuses(t *testing.T) {
	never := func(*Ledger) error { t.Error("it was read"); return nil }
	if err := Read(t.Context(), filepath.Join(t.TempDir(), "none"), Options{}, never); err != nil {
		t.Errorf("no ledger: %v", err)
	}
	dir := filepath.Join(t.TempDir(), "ledger")
	l, err := Open(dir, Options{})
	if err != nil {
		t.Fatal(err)
	}
	apply(t, l, Change{Build: build("00000000-0000-0000-0000-000000000001", api.Queued), Event: &api.Event{Build: "00000000-0000-0000-0000-000000000001", State: api.Queued}})
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	other, err := Open(filepath.Join(t.TempDir(), "other"), Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := other.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.CopyFS(dir, os.DirFS(other.db.dir)); err != nil {
		t.Fatal(err)
	}
	var missing *MissingError
	if err := Read(context.Background(), dir, Options{}, never); !errors.As(err, &missing) || !strings.Contains(err.Error(), dir) {
		t.Errorf("another ledger in its place: %v", err)
	}
}
