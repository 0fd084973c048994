// Errors of this package say in which module they happened: the innermost one, once.

export function located(error: unknown, label: string): unknown {
  if (error instanceof Error && !(error as { located?: boolean }).located && error.name.endsWith('Error') && 'code' in error) {
    // behind the first line: a report may follow
    error.message = error.message.replace(/\n|$/, (end) => ` in ${label}${end}`);
    Object.defineProperty(error, 'located', { value: true });
  }
  return error;
}
