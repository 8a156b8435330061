package head

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os/exec"
	"path/filepath"

	"golang.org/x/sys/unix"

	"lighter/internal/settings"
)

// SettingsProblems says what of the settings a coordinator that starts now, as this user, can't carry out.
func (f Folders) SettingsProblems(s *settings.Settings, getenv func(string) string) []error {
	_, _, problems := accessOf(&s.Access, f.SettingsFile())
	m := &hookMaker{folders: f, logger: slog.New(slog.DiscardHandler), home: Home(getenv)}
	_, more := m.configure(s)
	closeAll(m.next.closing)
	problems = append(problems, more...)
	problems = append(problems, f.missingPrograms(s.Hooks)...)
	if folder := s.Publish.Folder; folder != "" {
		if err := Writable(folder); err != nil {
			problems = append(problems, fmt.Errorf("%s: [publish] folder: %w", f.SettingsFile(), err))
		}
	}
	return problems
}

// missingPrograms names the hooks whose program is not there, or can't be run.
func (f Folders) missingPrograms(list []settings.Hook) (problems []error) {
	for i := range list {
		if h := &list[i]; len(h.Command) > 0 {
			if _, err := exec.LookPath(h.Command[0]); err != nil {
				problems = append(problems, fmt.Errorf("%s: hook %s: %w", f.SettingsFile(), h.Name, err))
			}
		}
	}
	return problems
}

// Writable returns an error if this user can't write in a folder, or make it.
func Writable(folder string) error {
	for {
		err := unix.Access(folder, unix.W_OK|unix.X_OK)
		if !errors.Is(err, fs.ErrNotExist) || folder == filepath.Dir(folder) {
			if err != nil {
				return &fs.PathError{Op: "write in", Path: folder, Err: err}
			}
			return nil
		}
		folder = filepath.Dir(folder)
	}
}
