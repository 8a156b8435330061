package coordinator

import (
	"context"
	"fmt"
	"math"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"lighter/hooks"
	"lighter/internal/api"
	"lighter/internal/coordinator/hookledger"
	"lighter/internal/ledger"
	"lighter/store"
	"lighter/store/derivation"
)

// poisons are what the ledger refuses in a build's record.
var poisons = map[string]func(lb *liveBuild){
	"attempt":    func(lb *liveBuild) { lb.task.attempt = api.MaxAttempt; lb.task.attempt++ },
	"no attempt": func(lb *liveBuild) { lb.task.attempt = -1 },
	"NaN":        func(lb *liveBuild) { lb.BuildTime = api.Seconds(math.NaN()) },
	"time": func(lb *liveBuild) {
		late := time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC)
		lb.Started = &late
	},
	"path":   func(lb *liveBuild) { lb.OutputPaths = map[string]store.Path{"out": "/nowhere"} },
	"system": func(lb *liveBuild) { lb.System = "\xff" },
	"size": func(lb *liveBuild) {
		lb.Results = []api.CheckResult{{Hashes: map[string]string{"out": strings.Repeat("x", api.MaxRecord)}}}
	},
}

// ended checks that a build has failed because its record was refused, that the coordinator
// goes on, also after a restart, and that nobody builds it any more.
func (f *farm) ended(id string) {
	f.t.Helper()
	b := f.awaitFinal(id)
	if b.State != api.Failed || b.Failure == nil || b.Failure.Kind != api.KindNotRecorded || !strings.Contains(b.Reason, "the ledger refuses") {
		f.t.Errorf("got %s, %q, %+v\n%s", b.State, b.Reason, b.Failure, f.history(id))
	}
	f.idle()
	f.crash()
	f.start()
	if b := f.awaitFinal(id); b.State != api.Failed {
		f.t.Errorf("it is %s after a restart", b.State)
	}
	f.awaitState(f.submit(f.drv("good", ""))[0], api.Succeeded)
}

func TestRefusedChangeEndsItsBuild(t *testing.T) {
	for name, poison := range poisons {
		for _, check := range []bool{false, true} {
			if check && strings.Contains(name, "attempt") {
				continue // a check has none
			}
			t.Run(fmt.Sprintf("%s, check %t", name, check), func(t *testing.T) {
				f := newFarm(t, nil, "m1")
				request := api.Request{Derivation: f.drv("one", "hold")}
				if check {
					request.Check = 2
				}
				id := f.request(request)[0]
				<-f.agents["m1"].held
				if err := f.c.do(t.Context(), func(l *loop) {
					lb := l.builds[id]
					poison(lb)
					if check {
						lb.save(l, true)
					} else {
						lb.task.setState(l, api.Building, "poisoned")
					}
				}); err != nil {
					t.Fatal(err)
				}
				f.ended(id)
			})
		}
	}
}

// What is refused may be the last thing that the coordinator has to say of a build.
func TestRefusedEnd(t *testing.T) {
	f := newFarm(t, nil, "m1")
	id := f.submit(f.drv("one", "hold"))[0]
	<-f.agents["m1"].held
	if err := f.c.do(t.Context(), func(l *loop) { l.builds[id].Hardware = &api.Hardware{CPU: strings.Repeat("x", api.MaxRecord)} }); err != nil {
		t.Fatal(err)
	}
	f.agents["m1"].release("one")
	f.ended(id)
}

// An attempt that an older coordinator took over from a machine: the next one is beyond what
// the ledger has room for.
func TestPoisonedAttemptAtTheStart(t *testing.T) {
	f := newFarm(t, nil, "m1")
	one := f.drv("one", "hold")
	id := f.submit(one)[0]
	<-f.agents["m1"].held
	f.crash()
	l, err := ledger.Open(filepath.Join(f.dir, "ledger"), ledger.Options{MinFree: -1, FS: f.fs})
	if err != nil {
		t.Fatal(err)
	}
	b, err := l.Build(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	b.Attempt, b.State, b.Machine = math.MaxInt32, api.Queued, ""
	if _, err := l.Apply(t.Context(), []ledger.Change{{Build: b}}, true); err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	f.agents["m1"].restart()
	f.agents["m1"].release("one")
	f.start()
	f.ended(id)
}

// A build that the ledger would refuse is refused by itself: the others of its submission are
// made. As an input it is the failure of what needs it.
func TestRefusedSubmission(t *testing.T) {
	f := newFarm(t, nil, "m1")
	bad := f.derive(&derivation.Derivation{System: strings.Repeat("x", api.MaxName+1)}, "bad", "")
	top := f.drv("top", "", bad)
	good := f.drv("good", "")
	answers, err := f.c.Submit(t.Context(), []api.Request{{Derivation: good}, {Derivation: bad}, {Derivation: top}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if a := answers[1]; a.Build != nil || a.Code != api.CodeBadRequest || !strings.Contains(a.Error, "at most 255 are taken") {
		t.Errorf("got %+v", a)
	}
	f.awaitState(answers[0].Build.ID, api.Succeeded)
	if b := f.awaitState(answers[2].Build.ID, api.DependencyFailed); b.Failure.Input != bad || !strings.Contains(b.Reason, "needs bad, which failed: the ledger refuses") {
		t.Errorf("got %s, %+v", b.Reason, b.Failure)
	}
	f.idle()
	f.crash()
	f.start()
	f.awaitState(f.submit(f.drv("other", ""))[0], api.Succeeded)
}

// Refused settings of event hooks, and unusable ones, stop nobody.
func TestHookLedgerRefusals(t *testing.T) {
	f := newFarm(t, nil, "m1")
	h := hookledger.Ledger{Ledger: f.ledger, Log: f.c.log}
	for _, tt := range []struct {
		name  string
		value any
	}{{"hooks/a", strings.Repeat("x", api.MaxSetting)}, {strings.Repeat("n", api.MaxPath+1), 1}, {"hooks/nan", math.NaN()}} {
		err := h.Apply(t.Context(), []hooks.Setting{{Name: tt.name, Value: tt.value}, {Name: "hooks/good", Value: 7}}, true)
		var got int
		if known, settingErr := h.Setting(t.Context(), "hooks/good", &got); err != nil || settingErr != nil || !known || got != 7 {
			t.Errorf("%.20s: %v, %v, %d", tt.name, err, settingErr, got)
		}
		var text string
		if known, err := h.Setting(context.Background(), "hooks/good", &text); known || err != nil {
			t.Errorf("a number is a text: %t, %v", known, err)
		}
	}
}
