package cli

import (
	"io"
	"log/slog"
	"strings"
	"time"

	"lighter/internal/cli/command"

	"github.com/charmbracelet/log"
	"github.com/spf13/pflag"
)

// logFlags say what a long-lived process writes to its standard error.
type logFlags struct {
	level, format *string
	flags         *pflag.FlagSet
}

// What --log-level and --log-format take.
var (
	logLevels  = []string{"debug", "info", "warn", "error"}
	logFormats = []string{"text", "logfmt", "json"}
)

// otherwise says what holds where the command line does not say.
func (f *logFlags) otherwise(level slog.Level, format string) {
	if !f.flags.Changed("log-level") {
		*f.level = strings.ToLower(level.String())
	}
	if !f.flags.Changed("log-format") {
		*f.format = format
	}
}

func addLogFlags(fs *pflag.FlagSet) *logFlags {
	return &logFlags{
		flags:  fs,
		level:  fs.String("log-level", "info", "what to log: debug, info, warn or error"),
		format: fs.String("log-format", "text", "how to log: text, logfmt or json"),
	}
}

// logger returns a logger that writes to w.
func (f *logFlags) logger(inv *command.Invocation, w io.Writer) (*slog.Logger, error) {
	level, err := log.ParseLevel(*f.level)
	if err != nil {
		return nil, inv.UsageErrorf("--log-level %q is none of %s", *f.level, strings.Join(logLevels, ", "))
	}
	formatters := map[string]log.Formatter{"text": log.TextFormatter, "logfmt": log.LogfmtFormatter, "json": log.JSONFormatter}
	formatter, ok := formatters[*f.format]
	if !ok {
		return nil, inv.UsageErrorf("--log-format %q is none of %s", *f.format, strings.Join(logFormats, ", "))
	}
	return slog.New(log.NewWithOptions(w, log.Options{
		Level: level, Formatter: formatter, ReportTimestamp: true, TimeFormat: time.RFC3339,
	})), nil
}
