package agent

import (
	"bufio"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"

	"lighter/internal/agentapi"
)

// madeMark is between a build's id and the number of the attempt in the name of an output
// that a check made.
const madeMark = ".made-"

func madePrefix(id string, attempt int) string { return id + madeMark + strconv.Itoa(attempt) + "-" }

// madeName returns the file of an output. What an output is called may be too long for a
// file's name, or end as others do.
func (at *attempt) madeName(output string) string {
	sum := sha256.Sum256([]byte(output))
	return at.madePrefix + hex.EncodeToString(sum[:8])
}

// makeOutput returns where a check writes an output, as store.BuildRequest.Made.
func (at *attempt) makeOutput(output string) (io.WriteCloser, error) {
	at.mu.Lock()
	if at.outputs == nil {
		at.outputs = make(map[string]bool)
	}
	at.outputs[output] = true
	at.mu.Unlock()
	f, err := os.OpenFile(at.madeName(output), os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	return &madeWriter{Writer: bufio.NewWriterSize(f, archiveBuffer), file: f}, nil
}

// madeWriter writes the file of an output.
type madeWriter struct {
	*bufio.Writer
	file *os.File
}

// Close writes what is left.
func (w *madeWriter) Close() error { return errors.Join(w.Flush(), w.file.Close()) }

// removeOutputs removes what a check made. It must not run.
func (at *attempt) removeOutputs() {
	at.mu.Lock()
	outputs := at.outputs
	at.outputs = nil
	at.mu.Unlock()
	for output := range outputs {
		if err := removeFile(at.madeName(output)); err != nil {
			at.log.Warn("what a check made was not removed", "err", err)
		}
	}
}

// made reports whether a file, by its base name, is an output that the attempt made. Nobody
// else must know the attempt yet.
func (at *attempt) made(name string) bool {
	for output := range at.outputs {
		if filepath.Base(at.madeName(output)) == name {
			return true
		}
	}
	return false
}

// lostOutput takes over what an earlier agent's check made, and returns what is lost of it.
// Nobody else must know the attempt yet.
func (at *attempt) lostOutput(status *agentapi.BuildStatus) error {
	made := make(map[string]bool, len(status.Outputs))
	for output := range status.Outputs {
		if _, err := os.Stat(at.madeName(output)); err != nil {
			return fmt.Errorf("output %q was made, and lost before it was fetched: %w", output, err)
		}
		made[output] = true
	}
	at.outputs = made
	return nil
}

// getOutput sends what a check made.
func (h handler) getOutput(w http.ResponseWriter, r *http.Request) (any, error) {
	at, err := h.attempt(r)
	if err != nil {
		return nil, err
	}
	status, output := at.snapshot(), r.PathValue("name")
	switch {
	case !status.Finished():
		return nil, refuse(http.StatusConflict, "", "build %s: nothing is made yet", at.id)
	case !status.Check || status.State != agentapi.Succeeded:
		return nil, refuse(http.StatusNotFound, "", "build %s: it is not a check that has succeeded", at.id)
	case status.Outputs[output] == nil:
		return nil, refuse(http.StatusNotFound, "", "build %s: there is no output %q", at.id, shorten(output))
	}
	f, err := os.Open(at.madeName(output))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	header := w.Header()
	header.Set("Content-Type", agentapi.NARType)
	header.Set("Content-Length", strconv.FormatInt(status.Outputs[output].NARSize, 10))
	if _, err := io.Copy(w, f); err != nil {
		if r.Context().Err() == nil {
			at.log.Warn("what a check made was not sent to its end", "output", output, "err", err)
		}
		panic(http.ErrAbortHandler)
	}
	return nil, nil
}
