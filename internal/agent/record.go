package agent

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strconv"
	"strings"

	"lighter/internal/agentapi"
)

// recordSuffix is how the names of records end.
const recordSuffix = ".status"

// maxRecord bounds a record, in bytes.
const maxRecord = 256 << 20

// record is the file with the states of an attempt: an agentapi.BuildStatus when it
// starts and another one when it ends, each a line of JSON. A line that was cut short
// by a crash does not count, so nothing needs to be renamed. It belongs to who starts the
// attempt, and then to who finishes it.
type record struct {
	name string
	file *os.File // open for appending while the attempt runs
}

// begin writes the first state, in the place of what there may be.
func (r *record) begin(status *agentapi.BuildStatus) (err error) {
	if r.file, err = os.OpenFile(r.name, os.O_CREATE|os.O_TRUNC|os.O_APPEND|os.O_WRONLY, 0o600); err != nil {
		return err
	}
	if err := r.write(status); err != nil {
		return errors.Join(err, r.close(), r.remove())
	}
	return nil
}

// end writes the last state.
func (r *record) end(status *agentapi.BuildStatus) (err error) {
	if r.file == nil { // it was begun by an earlier agent
		if r.file, err = os.OpenFile(r.name, os.O_APPEND|os.O_WRONLY, 0); err != nil {
			return err
		}
	}
	return errors.Join(r.write(status), r.close())
}

// write appends a state. The line break before it ends a line that was cut short.
func (r *record) write(status *agentapi.BuildStatus) error {
	text, err := json.Marshal(status)
	if err != nil {
		return err
	}
	_, err = r.file.Write(append(append([]byte{'\n'}, text...), '\n'))
	return err
}

func (r *record) close() error {
	file := r.file
	r.file = nil
	return file.Close()
}

func (r *record) remove() error { return removeFile(r.name) }

func removeFile(name string) error {
	if err := os.Remove(name); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// readRecord returns the last state in a record.
func readRecord(name string) (*agentapi.BuildStatus, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxRecord))
	if err != nil {
		return nil, err
	}
	var last *agentapi.BuildStatus
	for line := range bytes.Lines(text) {
		status := new(agentapi.BuildStatus)
		if json.Unmarshal(line, status) == nil {
			last = status
		}
	}
	if last == nil {
		return nil, fmt.Errorf("%s: it has no complete line", name)
	}
	return last, nil
}

// logMark is between a build's id and the number of the attempt in the name of a log.
const logMark = ".log-"

func logName(id string, attempt int) string { return id + logMark + strconv.Itoa(attempt) }

// The kinds of files of a build.
type fileKind int

const (
	recordFile fileKind = iota
	logFile
	madeFile
)

// buildOf returns the id of the build that a file is of, and what kind of file it is.
func buildOf(name string) (id string, kind fileKind) {
	if id, ok := strings.CutSuffix(name, recordSuffix); ok {
		return id, recordFile
	}
	log, made := strings.LastIndex(name, logMark), strings.LastIndex(name, madeMark)
	if made > log { // neither mark can stand behind the other one
		return name[:made], madeFile
	}
	return name[:max(0, log)], logFile
}
