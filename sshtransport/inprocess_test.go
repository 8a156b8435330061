package sshtransport_test

import (
	"net"
	"net/http"
	"path/filepath"
	"testing"
)

// serveInProcess has this process be the agent.
func serveInProcess(t testing.TB, f *farm) {
	t.Helper()
	listener, err := net.Listen("unix", filepath.Join(f.dir, "agent.sock"))
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: handler()}
	done := make(chan struct{})
	go func() {
		defer close(done)
		server.Serve(listener)
	}()
	t.Cleanup(func() {
		server.Close()
		<-done
	})
}
