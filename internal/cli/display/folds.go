package display

import (
	"fmt"
	"strings"
	"time"
)

// Folds is whose log it is that people read in a browser, where some lines can be folded away by lines of a certain
// kind. Empty is nobody's.
type Folds string

// The systems that fold.
const (
	GitHub Folds = "GitHub"
	GitLab Folds = "GitLab"
)

// FoldsOf says in whose job this process runs.
func FoldsOf(getenv func(string) string) Folds {
	switch {
	case getenv("GITHUB_ACTIONS") == "true":
		return GitHub
	case getenv("GITLAB_CI") == "true":
		return GitLab
	}
	return ""
}

// Fold folds lines away below a title. The id tells folds apart; it has letters, digits, dashes.
func (f Folds) Fold(id, title string, lines []string, now time.Time) []string {
	var begin, end string
	switch f {
	case GitHub:
		begin, end = "::group::"+strings.ReplaceAll(title, "%", "%25"), "::endgroup::"
	case GitLab:
		// See docs.gitlab.com/ci/jobs/job_logs: what counts is the carriage return, and that the line is cleared.
		begin = fmt.Sprintf("section_start:%d:%s[collapsed=true]\r\x1b[0K%s", now.Unix(), id, title)
		end = fmt.Sprintf("section_end:%d:%s\r\x1b[0K", now.Unix(), id)
	default:
		return nil
	}
	all := []string{begin}
	for _, line := range lines {
		all = append(all, f.Harmless(line))
	}
	return append(all, end)
}

// Harmless returns a line that tells the system nothing. GitHub's runner obeys commands that begin with two colons,
// at the start of a line or after blanks, and older ones anywhere in it.
func (f Folds) Harmless(line string) string {
	if f != GitHub {
		return line // GitLab's have control characters, which no line has
	}
	if strings.HasPrefix(strings.TrimSpace(line), "::") {
		line = strings.Replace(line, "::", ": :", 1)
	}
	return strings.ReplaceAll(line, "##[", "## [")
}
