package main

import (
	"slices"
	"testing"

	"lighter/internal/agentapi"
	"lighter/nar/signature"
	"lighter/store"
	"lighter/store/storetest"
)

// TestSubstitutes shows that an agent with a store of its own gets inputs from the servers
// that a request names, if a key of its ACL has signed them.
func TestSubstitutes(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.start("")
	key, err := signature.GenerateKey()
	if err != nil {
		t.Fatal(err)
	}
	folder := t.TempDir()
	client := h.client()
	missing := func(id string, input store.Path) []store.Path {
		t.Helper()
		req := shell(t, "x86_64-linux", id, "exit 1")
		absent, err := store.DefaultDir.TextPath("absent", []byte("absent"), nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Inputs, req.SubstituteURLs = []store.Path{absent, input}, []string{"file://" + folder}
		status, err := client.PutBuild(t.Context(), &agentapi.Asked{ID: id}, req)
		if err != nil || status.State != agentapi.Rooted || !slices.Contains(status.Missing, absent) {
			t.Fatalf("put: %+v, %v", status, err)
		}
		return slices.DeleteFunc(status.Missing, func(p store.Path) bool { return p == absent })
	}
	stranger := storetest.Publish(t, folder, key, "from-a-stranger")
	if got := missing("first", stranger); !slices.Equal(got, []store.Path{stranger}) {
		t.Errorf("missing: %s; nobody authorized the server's key", got)
	}
	if text, err := h.run(key.Public().String(), "authorize", "-"); err != nil {
		t.Fatalf("authorize: %v: %s", err, text)
	}
	if got := missing("second", storetest.Publish(t, folder, key, "from-a-friend")); len(got) > 0 {
		t.Errorf("missing: %s; the server has it", got)
	}
}
