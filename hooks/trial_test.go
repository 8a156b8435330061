package hooks

import (
	"context"
	"testing"

	"github.com/google/go-cmp/cmp"

	"lighter/internal/api"
)

func TestTrial(t *testing.T) {
	inBubble(t, func(b *bench) {
		var got *Event
		b.note.do = func(_ context.Context, e *Event) (string, error) {
			got = e
			return "out", errNo
		}
		b.start(hookOn("h", MachineLost))
		b.ledger.build("b1", nil)
		b.ledger.builds["b1"].State = api.TimedOut
		for _, test := range []struct {
			ask   api.HookTest
			event string
			kind  api.EventKind
			state api.State
		}{
			{api.HookTest{Build: "b1"}, BuildTimedOut, "", api.TimedOut},
			{api.HookTest{Build: "b1", Event: BuildSucceeded}, BuildSucceeded, "", api.Succeeded},
			{api.HookTest{Build: "b1", Event: BuildSubmitted}, BuildSubmitted, api.KindSubmitted, api.Queued},
			{api.HookTest{Build: "b1", Event: BuildMissingInputs}, BuildMissingInputs, api.KindMissingInputs, api.TimedOut},
			{api.HookTest{Machine: "m", Event: MachineLost}, MachineLost, api.KindMachineLost, ""},
		} {
			tested, err := b.engine.Test(b.t.Context(), "h", &test.ask)
			if err != nil {
				t.Fatal(err)
			}
			want := &api.HookTested{Event: test.event, Error: "no", Output: "out"}
			if diff := cmp.Diff(want, tested); diff != "" {
				t.Errorf("%+v: (-want +got)\n%s", test.ask, diff)
			}
			if got.Event.Kind != test.kind || got.Event.State != test.state || got.Name != test.event || got.Seq != 0 || got.Machine != test.ask.Machine {
				t.Errorf("%+v: the hook was told %+v", test.ask, got)
			}
		}
		for _, bad := range []api.HookTest{
			{},
			{Build: "b2"},
			{Build: "b1", Event: "build-done"},
			{Build: "b1", Machine: "m"},
			{Build: "b1", Event: MachineLost},
			{Event: MachineBack},
		} {
			if tested, err := b.engine.Test(b.t.Context(), "h", &bad); err == nil {
				t.Errorf("%+v: %+v", bad, tested)
			}
		}
		if _, err := b.engine.Test(b.t.Context(), "other", &api.HookTest{Build: "b1"}); err == nil {
			t.Error("there is no hook other")
		}
		if len(b.states()) != 0 || b.ledger.LastEvent() != 0 {
			t.Errorf("something is left: %q", b.states())
		}
	})
}
