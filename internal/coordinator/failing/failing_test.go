package failing

import (
	"errors"
	"strings"
	"testing"
	"time"

	"lighter/internal/api"
)

func TestRecord(t *testing.T) {
	var r Record
	if r.Before() != "" {
		t.Errorf("before the first: %q", r.Before())
	}
	link := &api.Failure{Culprit: api.CulpritLink, Phase: api.Sending, Machine: "m1", Message: "cut"}
	r.Blame(link)
	r.Blame(link)
	r.Recall(link, 7) // is known
	if all := r.All(link); r.Blamed != 2 || !strings.HasPrefix(all.Message, "2 attempts failed: ") || strings.Count(all.Message, "cut") != 1 || link.Message != "cut" {
		t.Errorf("of %d: %q", r.Blamed, all.Message)
	}
	if !strings.HasPrefix(r.Before(), "; before that ") {
		t.Errorf("got %q", r.Before())
	}
	r.Recall(&api.Failure{Message: "burnt"}, 7)
	if r.Blamed != 7 || len(r.List) != 3 {
		t.Errorf("after a restart: %d of %d", r.Blamed, len(r.List))
	}
	r.Unable.Add("m1", "it is for riscv64-linux")
	if all := r.Refused(link); all.Message != "no machine can build it: m1: it is for riscv64-linux" {
		t.Errorf("got %q", all.Message)
	}
	for range 40 {
		if delay := r.Delay(time.Second); delay < time.Second || delay > maxDelay {
			t.Errorf("tried again in %s", delay)
		}
	}
	if (&Record{}).Delay(time.Second) != time.Second || r.Delay(time.Second) != maxDelay {
		t.Error("delays don't grow from the first to the longest")
	}
}

func TestOfInput(t *testing.T) {
	const drv = "/gnu/store/00000000000000000000000000000000-x.drv"
	if f := OfInput(drv, NotRecorded(errors.New("too long"))); !f.OfDependency() || !strings.HasSuffix(f.Message, "which failed: the ledger refuses what became of it: too long") {
		t.Errorf("got %+v", f)
	}
	if f := Unreadable(drv, errors.New("no file")); f.OfDependency() || f.Input != drv {
		t.Errorf("got %+v", f)
	}
}
