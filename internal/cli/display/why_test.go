package display

import (
	"testing"
	"time"

	"lighter/internal/api"
)

func TestWhySentence(t *testing.T) {
	now := time.Unix(1e9, 0)
	earlier := now.Add(-90 * time.Second)
	failure := &api.Failure{Culprit: api.CulpritDerivation, Phase: api.Building, Message: "the builder failed with exit code 2; its last lines were:\na\nb"}
	of := &api.Failure{Culprit: api.CulpritDerivation, Phase: api.Waiting, Kind: api.KindDependency, Input: "/gnu/store/aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa-gcc.drv"}
	for want, why := range map[string]*api.Why{
		"is building on m1 for 1m30s, and usually takes 5m00s": {Build: api.Build{State: api.Building, Machine: "m1", Started: &earlier}, Expected: 300},
		"is queued, at place 4 of the queue: no slot is free":  {Build: api.Build{State: api.Queued}, Place: 4, Summary: "no slot is free"},
		"is sending on m1: 3 items":                            {Build: api.Build{State: api.Sending, Machine: "m1"}, Summary: "3 items"},
		"is waiting: waits for 2 inputs":                       {Build: api.Build{State: api.Waiting}, Summary: "waits for 2 inputs"},
		"was built on m1 1 minute ago, in 3.0s":                {Build: api.Build{State: api.Succeeded, Machine: "m1", Attempt: 1, Stopped: &earlier, BuildTime: 3}},
		"was there already 1 minute ago":                       {Build: api.Build{State: api.Succeeded, Stopped: &earlier}},
		"failed on m1 1 minute ago: the builder failed with exit code 2 (+ 7 that need it)": {
			Build: api.Build{State: api.Failed, Machine: "m1", Stopped: &earlier, Failure: failure, Dependents: 7},
		},
		"was not built 1 minute ago: it needs gcc, which failed": {Build: api.Build{State: api.DependencyFailed, Stopped: &earlier, Failure: of}},
		"was canceled 1 minute ago: canceled by alice":           {Build: api.Build{State: api.Canceled, Stopped: &earlier, Reason: "canceled by alice"}},
	} {
		if got := whySentence(why, now); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}
