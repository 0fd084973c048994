// A plugin of typedoc that makes the reference readable where the types are derived: constants that are functions are shown as functions,
// the methods that lib/ops/methods.ts gives a Tensor get the sentence of their function, and every name gets a heading by the file that
// declares it. Members stand on the page of the class that declares them, not again on those of its heirs. A name without a heading is a
// warning, which ends the run as any warning does.
import { relative } from 'node:path';
import {
  Comment,
  CommentTag,
  Converter,
  ParameterReflection,
  ReflectionFlag,
  ReflectionKind,
  ReflectionType,
  SignatureReflection,
  TypeScript as ts,
} from 'typedoc';
import { headingOf } from './headings.mjs';

const MODULES = { index: 'shardgrad', distributed: 'shardgrad/distributed' };

/** @param {import('typedoc').Application} app */
export function load(app) {
  const derived = new Set();
  app.converter.on(Converter.EVENT_CREATE_DECLARATION, (context, reflection) => {
    if (functionOfConstant(context, reflection) && reflection.kindOf(ReflectionKind.Method)) derived.add(reflection);
  });
  const afterInternalsAreGone = -100;
  app.converter.on(Converter.EVENT_RESOLVE_BEGIN, ({ project }) => {
    for (const module of project.children) module.name = MODULES[module.name];
    for (const heir of project.getReflectionsByKind(ReflectionKind.ClassOrInterface)) removeInherited(heir, project);
    const main = project.children.find(({ name }) => name === MODULES.index);
    for (const method of derived) describe(method, main);
    for (const module of project.children) addHeadings(module, project, app.logger);
  }, afterInternalsAreGone);
  // the interface they come from is no part of the reference
  app.converter.on(Converter.EVENT_RESOLVE_END, () => {
    for (const method of derived) {
      for (const r of [method, ...method.signatures]) delete r.inheritedFrom;
      delete method.parent.extendedTypes;
    }
  });
}

/** `const exp: Unary` becomes a function, a property of Methods a method, with the parameters of what it holds. Says whether it did. */
function functionOfConstant(context, reflection) {
  const method = reflection.kindOf(ReflectionKind.Property) && reflection.parent?.name === 'Tensor' && reflection.type instanceof ReflectionType;
  if (!method && !reflection.kindOf(ReflectionKind.Variable)) return false;
  const symbol = context.getSymbolFromReflection(reflection);
  const type = context.checker.getTypeOfSymbol(symbol);
  const [signature] = type.getCallSignatures();
  if (!signature || type.getProperties().length > 0) return false;

  context.project.removeTypeReflections(reflection.type);
  delete reflection.type;
  delete reflection.defaultValue;
  reflection.kind = method ? ReflectionKind.Method : ReflectionKind.Function;
  for (const flag of [ReflectionFlag.Const, ReflectionFlag.Readonly]) reflection.setFlag(flag, false);

  const made = new SignatureReflection(reflection.name, ReflectionKind.CallSignature, reflection);
  reflection.signatures = [made];
  context.registerReflection(made);
  const within = context.withScope(reflection).withScope(made);
  made.type = context.converter.convertType(within, signature.getReturnType());
  made.parameters = parametersOf(signature, context.checker).map(({ name, type, initializer, optional, rest }) => {
    const parameter = new ParameterReflection(name, ReflectionKind.Parameter, made);
    context.registerReflection(parameter);
    parameter.type = context.converter.convertType(within, optional || initializer ? context.checker.getNonNullableType(type) : type);
    if (initializer) parameter.defaultValue = initializer.getText();
    parameter.setFlag(ReflectionFlag.Optional, optional && !initializer);
    parameter.setFlag(ReflectionFlag.Rest, rest);
    return parameter;
  });
  made.comment = reflection.comment;
  delete reflection.comment;
  return true;
}

/** Those of a signature; where they are derived as `...rest: [dim: number]`, those of the tuple. */
function parametersOf(signature, checker) {
  return signature.getParameters().flatMap((symbol) => {
    const type = checker.getTypeOfSymbol(symbol);
    if (!checker.isTupleType(type)) return [{ name: symbol.name, type, optional: false, rest: false }];
    const { elementFlags, labeledElementDeclarations } = type.target;
    return checker.getTypeArguments(type).map((element, i) => ({
      name: labeledElementDeclarations[i].name.getText(),
      type: element,
      initializer: labeledElementDeclarations[i].initializer,
      optional: (elementFlags[i] & ts.ElementFlags.Optional) !== 0,
      rest: (elementFlags[i] & ts.ElementFlags.Rest) !== 0,
    }));
  });
}

/** A derived method says what its function says. */
function describe(method, main) {
  const fn = main.children.find(({ name, signatures }) => name === method.name && signatures);
  if (!fn) return;
  const said = fn.signatures.find(({ comment }) => comment)?.comment.summary ?? [];
  method.signatures[0].comment = new Comment([
    ...Comment.cloneDisplayParts(said),
    { kind: 'text', text: ' The function ' },
    { kind: 'inline-tag', tag: '@link', text: fn.name, target: fn },
    { kind: 'text', text: ' with this tensor as its first argument.' },
  ]);
  method.setFlag(ReflectionFlag.Inherited, false);
}

function removeInherited(heir, project) {
  if (!heir.extendedTypes?.some(({ reflection }) => reflection)) return;
  for (const member of [...(heir.children ?? [])]) {
    if (member.flags.isInherited && !member.kindOf(ReflectionKind.Constructor)) project.removeReflection(member);
  }
}

function addHeadings(parent, project, logger) {
  for (const child of parent.children ?? []) {
    if (child.kindOf(ReflectionKind.Namespace)) addHeadings(child, project, logger);
    const source = child.isReference() ? child.tryGetTargetReflectionDeep() : child;
    const file = relative('.', project.getSymbolIdFromReflection(source)?.fileName ?? '');
    const heading = child.kindOf(ReflectionKind.Namespace) ? 'Namespaces' : headingOf(file, child.name);
    if (heading === undefined) logger.warn(`scripts/docs/headings.mjs has no heading for ${child.name} of ${file}`);
    // a function's comment is that of its signatures
    const at = child.signatures?.[0] ?? child;
    at.comment ??= new Comment();
    at.comment.blockTags.push(new CommentTag('@category', [{ kind: 'text', text: heading ?? 'Other' }]));
  }
}
