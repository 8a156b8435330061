package coordinator

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"lighter/internal/api"
)

func TestBuild(t *testing.T) {
	f := newFarm(t, nil, "m1")
	drv := f.drv("one", "log=hello")
	id := f.submit(drv)[0]
	b := f.awaitFinal(id)
	if b.State != api.Succeeded || b.Machine != "m1" || b.Attempt != 1 || !f.valid(f.output(drv)) {
		t.Errorf("got %+v, want it to be built on m1 and its output at home", b)
	}
	want := []api.State{api.Queued, api.Placed, api.Sending, api.Building, api.Fetching, api.Succeeded}
	if diff := cmp.Diff(want, f.states(id)); diff != "" {
		t.Errorf("states (-want +got):\n%s", diff)
	}
	if b.LogSize != 6 || b.SentBytes == 0 || b.FetchBytes == 0 || b.OutputSize == 0 || b.Stopped == nil || b.Started == nil {
		t.Errorf("sizes and times are missing in %+v", b)
	}
	f.idle()
}
