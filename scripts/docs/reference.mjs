// A plugin of typedoc that makes the reference readable where the types are derived: constants that are functions are shown as functions,
// the methods that lib/ops/methods.ts gives a Tensor get the sentence of their function, and every name gets a heading by the file that
// declares it. Members of a class stand on its page, and not again on those of its heirs. A name without a heading is a
// warning, which ends the run as any warning does.
import { relative } from 'node:path';
import {
  Application,
  Comment,
  CommentTag,
  Converter,
  IntrinsicType,
  LiteralType,
  ParameterReflection,
  ReflectionFlag,
  ReflectionKind,
  ReflectionType,
  SignatureReflection,
  TypeScript as ts,
  UnionType,
} from 'typedoc';
import { HEADINGS, headingOf } from './headings.mjs';

const MAIN = 'shardgrad';

/** @param {import('typedoc').Application} app */
export function load(app) {
  // by then typedoc.json has been read
  app.on(Application.EVENT_BOOTSTRAP_END, () => app.options.setValue('categoryOrder', HEADINGS));
  const derived = new Set();
  app.converter.on(Converter.EVENT_CREATE_DECLARATION, (context, reflection) => {
    if (functionOfConstant(context, reflection) && reflection.kindOf(ReflectionKind.Method)) derived.add(reflection);
  });
  const afterInternalsAreGone = -100;
  app.converter.on(Converter.EVENT_RESOLVE_BEGIN, (context) => {
    const { project } = context;
    removeInherited(project, derived);
    for (const alias of project.getReflectionsByKind(ReflectionKind.TypeAlias)) nameLiterals(context, alias);
    const main = project.getChildByName([MAIN]);
    // the interface that derived methods come from is no part of the reference
    delete main.getChildByName('Tensor').extendedTypes;
    for (const method of derived) describe(method, main);
    describePolicies(project);
    for (const module of project.children) addHeadings(module, project, app.logger);
  }, afterInternalsAreGone);
  app.converter.on(Converter.EVENT_RESOLVE_END, ({ project }) => {
    const main = project.getChildByName([MAIN]);
    for (const method of derived) {
      describeOptions(method, main);
      for (const r of [method, ...method.signatures]) delete r.inheritedFrom;
    }
    // what a field is before the constructor has run says nothing
    for (const field of project.getReflectionsByKind(ReflectionKind.Property)) delete field.defaultValue;
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
    const converted = context.converter.convertType(within, type);
    parameter.type = optional || initializer ? withoutUndefined(converted) : converted;
    if (initializer) parameter.defaultValue = initializer.getText();
    parameter.setFlag(ReflectionFlag.Optional, optional && !initializer);
    parameter.setFlag(ReflectionFlag.Rest, rest);
    return parameter;
  });
  made.comment = reflection.comment;
  delete reflection.comment;
  return true;
}

function withoutUndefined(type) {
  if (!(type instanceof UnionType)) return type;
  const types = type.types.filter((t) => !(t instanceof IntrinsicType && t.name === 'undefined'));
  return types.length === 1 ? types[0] : new UnionType(types);
}

/** `keyof typeof table` becomes the names it stands for. */
function nameLiterals(context, reflection) {
  const type = context.programs[0].getTypeChecker().getDeclaredTypeOfSymbol(context.getSymbolFromReflection(reflection));
  if (type.isUnion() && type.types.every((t) => t.isStringLiteral())) reflection.type = new UnionType(type.types.map(({ value }) => new LiteralType(value)));
}

/** The rows of autocast's table are their values, which the type Policy explains. */
function describePolicies(project) {
  const { type } = project.getChildByName([MAIN, 'amp', 'policy']);
  const meaning = project.getChildByName([MAIN, 'amp', 'Policy']);
  for (const row of type.declaration.children) row.comment = new Comment([{ kind: 'inline-tag', tag: '@link', text: 'Policy', target: meaning }]);
}

/** Those of a signature; where they are derived as `...rest: [dim: number]`, those of the tuple. */
function parametersOf(signature, checker) {
  return signature.getParameters().flatMap((symbol) => {
    const type = checker.getTypeOfSymbol(symbol);
    if (!checker.isTupleType(type)) {
      const { initializer, questionToken, dotDotDotToken } = symbol.valueDeclaration;
      return [{ name: symbol.name, type, initializer, optional: questionToken !== undefined, rest: dotDotDotToken !== undefined }];
    }
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

function functionOf(method, main) {
  const found = main.children.find(({ name }) => name === method.name);
  return found?.isReference() ? found.getTargetReflectionDeep() : found;
}

/** A derived method says what its function says. */
function describe(method, main) {
  const fn = functionOf(method, main);
  if (!fn) return;
  const said = fn.signatures?.find(({ comment }) => comment)?.comment.summary ?? [];
  method.signatures[0].comment = new Comment([
    ...Comment.cloneDisplayParts(said),
    { kind: 'text', text: ' The function ' },
    { kind: 'inline-tag', tag: '@link', text: fn.name, target: fn },
    { kind: 'text', text: ' with this tensor as its first argument.' },
  ]);
  method.setFlag(ReflectionFlag.Inherited, false);
}

/** Its options too, once typedoc has brought the function's @param lines to them. */
function describeOptions(method, main) {
  const literalOf = (signature, name) => signature?.parameters?.find((p) => p.name === name)?.type?.declaration?.children ?? [];
  const [signature] = method.signatures;
  for (const { name } of signature.parameters) {
    const described = literalOf(functionOf(method, main)?.signatures?.[0], name);
    for (const option of literalOf(signature, name)) option.comment ??= described.find((d) => d.name === option.name)?.comment?.clone();
  }
}

function removeInherited(project, derived) {
  const place = (reflection) => {
    const id = project.getSymbolIdFromReflection(reflection);
    return `${id?.packagePath} ${id?.qualifiedName}`;
  };
  const members = project.getReflectionsByKind(ReflectionKind.SomeMember);
  const declared = new Set(members.filter((member) => !member.flags.isInherited || derived.has(member)).map(place));
  const ofHeir = (member) => member.parent.kindOf(ReflectionKind.Class) && member.flags.isInherited && !derived.has(member);
  const again = members.filter((member) => ofHeir(member) && !member.kindOf(ReflectionKind.Constructor) && declared.has(place(member)));
  for (const member of again) project.removeReflection(member);
}

function addHeadings(parent, project, logger) {
  for (const child of parent.children ?? []) {
    if (child.kindOf(ReflectionKind.Namespace)) addHeadings(child, project, logger);
    const source = child.isReference() ? child.tryGetTargetReflectionDeep() : child;
    const file = relative('.', project.getSymbolIdFromReflection(source)?.fileName ?? '');
    const heading = child.kindOf(ReflectionKind.Namespace) ? 'Namespaces' : headingOf(file, child.name);
    if (heading === undefined) logger.warn(`scripts/docs/headings.mjs has no heading for ${child.name} of ${file}`);
    if (child.isReference()) child.comment = new Comment();
    // a function's comment is that of its signatures
    const { comment } = child.signatures?.find((signature) => signature.comment) ?? child;
    comment?.blockTags.push(new CommentTag('@category', [{ kind: 'text', text: heading ?? 'Other' }]));
  }
}
