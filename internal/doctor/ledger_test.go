package doctor

import (
	"iter"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"lighter/internal/api"
	"lighter/internal/ledger"
)

// withLedger makes a ledger with some builds, as a coordinator leaves it that was killed.
func withLedger(t *testing.T) *installation {
	t.Helper()
	in := newInstallation(t)
	l, err := ledger.Open(in.f.Ledger(), ledger.Options{MinFree: -1})
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{"a", "b", "c"} {
		b := &api.Build{
			Request: api.Request{ID: id, Derivation: "/gnu/store/0123456789abcdfghijklmnpqrsvwxyz-hello-2.12.drv"},
			System:  "x86_64-linux", State: api.Queued, Submitted: time.Now(),
		}
		if _, err := l.Apply(t.Context(), []ledger.Change{{Build: b}}, true); err != nil {
			t.Fatal(err)
		}
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	return in
}

func (in *installation) deep() findings {
	return in.consult(func(d *Doctor) iter.Seq[Finding] { return d.Examine(in.t.Context(), true) })
}

// Each way on that the doctor names is gone, and the doctor is content then.
func TestMending(t *testing.T) {
	accept := func(d *Doctor) iter.Seq[Finding] { return slices.Values(d.AcceptLoss()) }
	drop := func(d *Doctor) iter.Seq[Finding] { return slices.Values(d.DropUnusable(t.Context())) }
	in := withLedger(t)
	in.deep().want(t, false, "ok       whole ledger   all of it can be read")

	logs, err := filepath.Glob(filepath.Join(in.f.Ledger(), "*.log"))
	if err != nil || len(logs) == 0 {
		t.Fatal(logs, err)
	}
	for _, name := range logs {
		if err := os.Remove(name); err != nil {
			t.Fatal(err)
		}
	}
	got := in.deep()
	got.want(t, true, "problem  whole ledger   open ledger ")
	got.want(t, true, "lighter doctor --accept-loss")
	if _, err := ledger.Open(in.f.Ledger(), ledger.Options{}); err == nil || !strings.Contains(err.Error(), "--accept-loss") {
		t.Errorf("it opens: %v", err)
	}
	in.consult(drop).want(t, true, "problem  ledger") // not what is wrong
	in.consult(accept).want(t, false, "the coordinator can be started")
	in.deep().want(t, false, "ok       whole ledger   all of it can be read")
	in.consult(drop).want(t, false, "0 records dropped")
	in.deep().want(t, false, "ok       whole ledger   all of it can be read")
}

func TestOpenLedgerIsLeftAlone(t *testing.T) {
	in := withLedger(t)
	l, err := ledger.Open(in.f.Ledger(), ledger.Options{MinFree: -1})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	in.status.LedgerProblems = []string{"event 12: corrupt entry"}
	got := in.deep()
	got.want(t, true, "problem  ledger         the coordinator leaves out what it can't use: event 12: corrupt entry")
	got.want(t, true, "lighter doctor --drop-unusable")
	got.want(t, true, "in use by the process")
	for name, call := range map[string]func(*Doctor) iter.Seq[Finding]{
		"accept": func(d *Doctor) iter.Seq[Finding] { return slices.Values(d.AcceptLoss()) },
		"drop":   func(d *Doctor) iter.Seq[Finding] { return slices.Values(d.DropUnusable(t.Context())) },
	} {
		if got := in.consult(call); !got.problem || !strings.Contains(got.text, "in use by the process") {
			t.Errorf("%s: %s", name, got.text)
		}
	}
}
