;; guix repl -- evaluate.scm expressions.scm > expressions.golden
;;
;; Evaluates each line of a file in the module in which Guix loads machines.scm, and
;; writes its value, or "error". A line that ends in \ goes on.

(use-modules (ice-9 match) (ice-9 rdelim))

(define module
  (module-ref (resolve-module '(guix scripts offload)) '%user-module))

(for-each (lambda (name)
            (module-use! module (resolve-interface name)))
          '((srfi srfi-1) (srfi srfi-26) (ice-9 match) (ice-9 format)))

(define (value text)
  (catch #t
    (lambda ()
      (parameterize ((current-warning-port (%make-void-port "w"))
                     (current-output-port (%make-void-port "w")))
        (let ((value (eval (call-with-input-string text read) module)))
          (call-with-output-string (lambda (port) (write value port))))))
    (const "error")))

(match (command-line)
  ((_ file)
   (set-port-encoding! (current-output-port) "UTF-8")
   (call-with-input-file file
     (lambda (port)
       (set-port-encoding! port "UTF-8")
       (let loop ((before ""))
         (let ((line (read-line port)))
           (unless (eof-object? line)
             (let ((text (string-append before line)))
               (if (string-suffix? "\\" text)
                   (loop (string-append text "\n"))
                   (begin
                     (display (string-join (string-split (value text) #\newline) "\\n"))
                     (newline)
                     (loop "")))))))))))
