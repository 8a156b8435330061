package cli

import (
	"net/http"
	"slices"
	"strings"
	"testing"

	"lighter/internal/api"
	"lighter/internal/api/apiclient"
	"lighter/internal/cli/command"
)

func TestHold(t *testing.T) {
	s := newStub(t)
	held, gone := make(chan []string, 1), make(chan struct{}, 1)
	s.mux.HandleFunc("GET /v1/attach", func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(http.StatusOK)
		if err := http.NewResponseController(w).Flush(); err != nil {
			t.Error(err)
		}
		held <- r.URL.Query()["build"]
		<-r.Context().Done()
		gone <- struct{}{}
	})
	client := apiclient.NewClient(s.socket)
	t.Cleanup(client.Close)
	builds := []*api.Build{
		{Request: api.Request{ID: "one", Attached: true}}, {Request: api.Request{ID: "two"}}, {Request: api.Request{ID: "three", Attached: true}},
	}
	release, err := hold(t.Context(), client, builds)
	if err != nil {
		t.Fatal(err)
	}
	if got := <-held; !slices.Equal(got, []string{"one", "three"}) {
		t.Errorf("held %q", got)
	}
	release()
	<-gone
	if release, err = hold(t.Context(), client, builds[1:2]); err != nil {
		t.Fatal(err)
	}
	release()
	if asked := s.requests("GET /v1/attach"); len(asked) != 1 {
		t.Errorf("asked %q", asked)
	}
	if _, err := hold(t.Context(), client, make([]*api.Build, maxHeld+1)); err == nil || !strings.Contains(err.Error(), "at most 10000") {
		t.Errorf("too many: %v", err)
	}
}

func TestAttachedIsNotDetached(t *testing.T) {
	got := newStub(t).run("", "build", "--attached", "--detach", string(drv("one")))
	got.want(t, command.ExitUsage, "", "--detach is the opposite")
}
