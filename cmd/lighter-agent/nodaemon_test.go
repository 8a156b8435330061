package main

import (
	"path/filepath"
	"strings"
	"testing"
)

// TestDaemonIsNotThere asks for guix-daemon where there is none.
func TestDaemonIsNotThere(t *testing.T) {
	h := newHost(t)
	h.start("", "--store", "guix-daemon", "--daemon-socket", filepath.Join(h.dir, "gone"))
	m, err := h.client().Machine(t.Context())
	if err != nil || m.StoreKind != "guix-daemon" || !strings.Contains(m.BuildProblem, "start guix-daemon") {
		t.Errorf("machine: %+v, %v", m, err)
	}
}

// TestAutoWithoutDaemon finds the store of the agent's own.
func TestAutoWithoutDaemon(t *testing.T) {
	h := newHost(t)
	h.start("", "--daemon-socket", filepath.Join(h.dir, "gone"))
	m, err := h.client().Machine(t.Context())
	if err != nil || m.StoreKind != "local" {
		t.Errorf("machine: %+v, %v", m, err)
	}
}
